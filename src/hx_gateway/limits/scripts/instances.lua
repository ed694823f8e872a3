-- Beat, forget those who did not, and count. KEYS[1]: instances by their last beat (sorted set).
-- ARGV: the instance's name, or nothing to leave; seconds until a beat is forgotten.
local time = redis.call('TIME')
local now = tonumber(time[1])
if ARGV[3] == '1' then
  redis.call('ZADD', KEYS[1], now, ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
redis.call('EXPIRE', KEYS[1], 2 * tonumber(ARGV[2]))
return redis.call('ZCARD', KEYS[1])
