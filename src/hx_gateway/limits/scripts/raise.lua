-- Bring a reservation up to an amount: see CounterStore.raise_reservation.
-- Arguments: call, epoch, cost, charges, for each: window, limit. Returns what admit does, of no scopes.
local call, epoch, cost = argument(), argument(), number()
local charges, money, fields = {}, {}, { 'i:' .. call }
for place = 1, number() do
  charges[place] = argument()
  money[place] = number()
  fields[#fields + 1] = 'p:' .. charges[place]
  fields[#fields + 1] = 'r:' .. charges[place]
end
if #charges == 0 then
  return { 'admitted', now, -1, 0, {}, {}, {}, {} }
end
if not in_epoch(epoch) then
  return { 'stale', now }
end
local values = redis.call('HMGET', MONEY, unpack(fields))
if not values[1] then
  return { 'stale', now }
end
local amount, windows = held(values[1])
local more = cost - amount
for place in ipairs(charges) do
  money[place] = money[place] - tonumber(values[2 * place] or 0) - tonumber(values[2 * place + 1] or 0)
end
if more > 0 then
  for place in ipairs(charges) do
    if money[place] < more then
      return { 'budget', now, place - 1, money[place], {}, {}, {}, money }
    end
  end
  local value = text(cost)
  local raised = {}
  for _, window in ipairs(windows) do
    value = value .. '|' .. window
    raised[window] = more
    redis.call('HINCRBY', MONEY, 'r:' .. window, text(more))
  end
  redis.call('HSET', MONEY, 'i:' .. call, value)
  for place, window in ipairs(charges) do
    money[place] = money[place] - (raised[window] or 0)
  end
end
return { 'admitted', now, -1, 0, {}, {}, {}, money }
