-- Take everything, or nothing: see CounterStore.admit.
-- Arguments, first those that are the same for many calls: lease, scopes, for each: name, slots or -1, request increment
-- or -1, capacity, capacity of tokens or -1; epoch, charges, for each: window, limit. Then: call, cost, and for each
-- scope that counts tokens their increment.
-- Returns outcome, now, place of what refused (from 0), left there, cold windows, requests, tokens, money left; of a call
-- that is admitted one text: now, requests, tokens and money left as big-endian whole numbers of 64 bits.
local lease = number()
local scopes = {}
for place = 1, number() do
  scopes[place] = { name = argument(), slots = number(), q = number(), q_capacity = number(), k_capacity = number() }
end
local epoch = argument()
local charges = {}
for place = 1, number() do
  charges[place] = { window = argument(), limit = number() }
end
local call, cost = argument(), number()
for _, scope in ipairs(scopes) do
  scope.k = scope.k_capacity >= 0 and number() or -1
end

if #charges > 0 and not in_epoch(epoch) then
  return { 'stale', now }
end
local mark = mark_of(call)
if mark == 'x' then
  return { 'stale', now }
end
local known = mark == 'a'
local money = {}
if #charges > 0 then
  local fields = { 'i:' .. call, 'x:' .. call }
  for _, charge in ipairs(charges) do
    fields[#fields + 1] = 'p:' .. charge.window
    fields[#fields + 1] = 'r:' .. charge.window
  end
  local values = redis.call('HMGET', MONEY, unpack(fields))
  known = known or values[1] ~= false
  if values[2] and not known then
    return { 'stale', now }
  end
  local cold = {}
  for place, charge in ipairs(charges) do
    local posted, reserved = values[2 * place + 1], values[2 * place + 2]
    if not posted then
      cold[#cold + 1] = charge.window
    end
    money[place] = charge.limit - tonumber(posted or 0) - tonumber(reserved or 0)
  end
  if #cold > 0 and not known then
    return { 'cold', now, -1, 0, cold }
  end
end

local requests, tokens = {}, {}
for place, scope in ipairs(scopes) do
  requests[place] = scope.q >= 0 and tat_of('q:', scope.name) or 0
  tokens[place] = scope.k >= 0 and tat_of('k:', scope.name) or 0
end
local function answer(outcome, place, left)
  return { outcome, now, place, left, {}, requests, tokens, money }
end
local function admitted()
  local numbers = { now }
  for _, list in ipairs({ requests, tokens, money }) do
    for _, value in ipairs(list) do
      numbers[#numbers + 1] = value
    end
  end
  return struct.pack('>' .. string.rep('i8', #numbers), unpack(numbers))
end
if known then
  return admitted()
end

for place, scope in ipairs(scopes) do
  if scope.slots >= 0 then
    redis.call('ZREMRANGEBYSCORE', PREFIX .. 's:' .. scope.name, '-inf', text(now))
    local taken = redis.call('ZCARD', PREFIX .. 's:' .. scope.name)
    if taken >= scope.slots then
      return answer('parallel', place - 1, scope.slots - taken)
    end
  end
end
for place, scope in ipairs(scopes) do
  if scope.q >= 0 and math.max(requests[place], now) + scope.q - now > scope.q_capacity then
    return answer('requests', place - 1, 0)
  end
end
local short = nil
for place, scope in ipairs(scopes) do
  if scope.k > scope.k_capacity then
    return answer('too_large', place - 1, 0)
  end
  if not short and scope.k >= 0 and math.max(tokens[place], now) + scope.k - now > scope.k_capacity then
    short = place
  end
end
if short then
  return answer('tokens', short - 1, 0)
end
for place in ipairs(charges) do
  if money[place] < cost then
    return answer('budget', place - 1, money[place])
  end
end

for place, scope in ipairs(scopes) do
  if scope.q >= 0 then
    requests[place] = math.max(requests[place], now) + scope.q
    set_tat('q:', scope.name, requests[place])
  end
  if scope.k >= 0 then
    tokens[place] = math.max(tokens[place], now) + scope.k
    set_tat('k:', scope.name, tokens[place])
  end
  if scope.slots >= 0 then
    set_slot(scope.name, call, lease)
  end
end
if #charges > 0 then
  local value = text(cost)
  for place, charge in ipairs(charges) do
    value = value .. '|' .. charge.window
    money[place] = money[place] - cost
    redis.call('HINCRBY', MONEY, 'r:' .. charge.window, text(cost))
  end
  redis.call('HSET', MONEY, 'i:' .. call, value)
  due_at('i:' .. call, now + lease)
elseif #scopes > 0 then
  set_mark(call, 'a', math.max(MARK_US, lease))
end
return admitted()
