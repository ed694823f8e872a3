-- Begin an epoch: see CounterStore.begin. Arguments: epoch.
-- It takes the place of an earlier one, and of whatever is left of one that was lost in part.
local epoch = argument()
local known = redis.call('HGET', MONEY, 'e')
local whole = known and redis.call('ZSCORE', DUE, '')
if whole and tonumber(known) >= tonumber(epoch) then
  return 0
end
redis.call('DEL', MONEY, DUE)
redis.call('HSET', MONEY, 'e', epoch)
redis.call('ZADD', DUE, '+inf', '')
return 1
