-- Correct what is posted where the value that was seen still stands: see CounterStore.repost.
-- Arguments: epoch, windows, for each: window, seen, true.
local epoch = argument()
if not in_epoch(epoch) then
  return 0
end
for _ = 1, number() do
  local window, seen, value = argument(), argument(), argument()
  if redis.call('HGET', MONEY, 'p:' .. window) == seen then
    redis.call('HSET', MONEY, 'p:' .. window, value)
  end
end
return 0
