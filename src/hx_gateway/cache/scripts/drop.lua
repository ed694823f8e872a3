-- Forget answers by their names. Returns how many there were.
-- KEYS[1]: the tenant's index. KEYS[2]: its answers by the moment they end. ARGV: the prefix of its answers, the names.
local INDEX, ENDS, PREFIX = KEYS[1], KEYS[2], ARGV[1]
local total = tonumber(redis.call('HGET', INDEX, '') or '0')
local dropped = 0
for place = 2, #ARGV do
  local name = ARGV[place]
  local about = redis.call('HGET', INDEX, name)
  if about then
    total = total - tonumber(string.match(about, '^%d+'))
    redis.call('HDEL', INDEX, name)
    dropped = dropped + redis.call('UNLINK', PREFIX .. name)
  end
  redis.call('ZREM', ENDS, name)
end
if total > 0 then
  redis.call('HSET', INDEX, '', total)
else
  redis.call('UNLINK', INDEX, ENDS)
end
return dropped
