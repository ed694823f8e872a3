-- Set windows that are cold: see CounterStore.seed.
-- Arguments: epoch, lease, windows, for each: window, posted, ever (1 or 0), calls, for each: call, amount.
local epoch, lease = argument(), number()
if not in_epoch(epoch) then
  return 0
end
local function value_of(amount, windows)
  return table.concat({ text(amount), unpack(windows) }, '|')
end

local function seed_call(window, call, amount)
  local value = redis.call('HGET', MONEY, 'i:' .. call)
  if not value then
    redis.call('HSET', MONEY, 'i:' .. call, value_of(amount, { window }))
    redis.call('HINCRBY', MONEY, 'r:' .. window, text(amount))
    due_at('i:' .. call, now + lease)
    return
  end
  -- One amount a call: what its windows were told at different times, the most of it holds in all.
  local known, windows = held(value)
  if known < amount then
    for _, other in ipairs(windows) do
      redis.call('HINCRBY', MONEY, 'r:' .. other, text(amount - known))
    end
    known = amount
  end
  local inside = false
  for _, other in ipairs(windows) do
    inside = inside or other == window
  end
  if not inside then
    windows[#windows + 1] = window
    redis.call('HINCRBY', MONEY, 'r:' .. window, text(known))
  end
  redis.call('HSET', MONEY, 'i:' .. call, value_of(known, windows))
end

for _ = 1, number() do
  local window, posted, ever, calls = argument(), argument(), argument() == '1', number()
  local cold = redis.call('HEXISTS', MONEY, 'p:' .. window) == 0
  if cold then
    redis.call('HSET', MONEY, 'p:' .. window, posted, 'r:' .. window, '0')
    if not ever then
      due_at('w:' .. window, now + WINDOW_US)
    end
  end
  for _ = 1, calls do
    local call, amount = argument(), number()
    if cold then
      seed_call(window, call, amount)
    end
  end
end
return 0
