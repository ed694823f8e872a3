-- End calls: see CounterStore.settle.
-- Arguments: calls, for each: call, cost, doubtful (1 or 0), scopes, for each: name, has slots (1 or 0), correction of
-- the tokens in microseconds.
for _ = 1, number() do
  local call, cost, doubtful = argument(), number(), argument() == '1'
  local known = mark_of(call) == 'a'
  if known then
    redis.call('DEL', PREFIX .. 'c:' .. call)
  end
  local values = redis.call('HMGET', MONEY, 'i:' .. call, 'x:' .. call)
  if values[1] then
    local amount, windows = held(values[1])
    redis.call('HDEL', MONEY, 'i:' .. call)
    redis.call('ZREM', DUE, 'i:' .. call)
    post(windows, cost, amount)
    known = true
  end
  if values[2] then
    local amount, windows = held(values[2])
    redis.call('HDEL', MONEY, 'x:' .. call)
    redis.call('ZREM', DUE, 'x:' .. call)
    post(windows, cost - amount, 0)
    known = true
  end
  if doubtful then
    set_mark(call, 'x', MARK_US)
  end
  for _ = 1, number() do
    local scope, has_slots, correction = argument(), argument() == '1', number()
    if has_slots then
      redis.call('ZREM', PREFIX .. 's:' .. scope, call)
    end
    if known and correction ~= 0 then
      local tat = tat_of('k:', scope)
      if correction < 0 then
        set_tat('k:', scope, tat + correction)
      else
        set_tat('k:', scope, math.min(math.max(tat, now) + correction, now + LONGEST_US))
      end
    end
  end
end
return 0
