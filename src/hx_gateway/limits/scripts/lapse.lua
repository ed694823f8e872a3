-- Do what is due: see CounterStore.lapse. Arguments: how many at most.
-- Returns for each reservation whose lease ran out: call, "amount|window|window".
local lapsed = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', text(now), 'LIMIT', 0, argument())) do
  local kind, rest = string.sub(member, 1, 2), string.sub(member, 3)
  redis.call('ZREM', DUE, member)
  if kind == 'i:' then
    local value = redis.call('HGET', MONEY, member)
    if value then
      local amount, windows = held(value)
      redis.call('HDEL', MONEY, member)
      post(windows, amount, amount)
      local before = redis.call('HGET', MONEY, 'x:' .. rest)
      if before then
        -- It lapsed before, and was then seeded into other windows.
        local known, others = held(before)
        redis.call('HSET', MONEY, 'x:' .. rest, table.concat({ text(known), unpack(others) }, '|')
          .. string.sub(value, string.find(value, '|', 1, true), -1))
      else
        redis.call('HSET', MONEY, 'x:' .. rest, value)
      end
      due_at('x:' .. rest, now + LAPSED_US)
      lapsed[#lapsed + 1] = rest
      lapsed[#lapsed + 1] = value
    end
  elseif kind == 'x:' then
    redis.call('HDEL', MONEY, member)
  elseif kind == 'w:' then
    if tonumber(redis.call('HGET', MONEY, 'r:' .. rest) or 0) > 0 then
      due_at(member, now + DAY_US)
    else
      redis.call('HDEL', MONEY, 'p:' .. rest, 'r:' .. rest)
    end
  end
end
return lapsed
