-- Keep an answer; those that end first make room for it. Returns 1 if it is kept.
-- KEYS[1]: the tenant's index (hash): name -> "bytes|key|model", and under the empty name all bytes together.
-- KEYS[2]: its answers by the moment they end, in milliseconds (sorted set).
-- ARGV: the prefix of its answers, the name, the answer, milliseconds to live, "key|model", bytes that all may take.
local INDEX, ENDS = KEYS[1], KEYS[2]
local PREFIX, NAME, ANSWER, ABOUT = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local TTL, MOST = tonumber(ARGV[4]), tonumber(ARGV[6])
-- A server answers nobody else while a script runs.
local AT_ONCE = 200
-- About what the index and the server itself take for an answer.
local OVERHEAD = 512

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local total = tonumber(redis.call('HGET', INDEX, '') or '0')

local function forget(name)
  local about = redis.call('HGET', INDEX, name)
  if about then
    total = total - tonumber(string.match(about, '^%d+'))
    redis.call('HDEL', INDEX, name)
  end
  redis.call('ZREM', ENDS, name)
  redis.call('UNLINK', PREFIX .. name)
end

forget(NAME)
for _, name in ipairs(redis.call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, AT_ONCE)) do
  forget(name)
end
local size = #ANSWER + OVERHEAD
local forgotten = 0
while total + size > MOST and forgotten < AT_ONCE do
  local first = redis.call('ZRANGE', ENDS, 0, 0)[1]
  if not first then
    -- Their order was lost, or there is nothing: without their index they are not there any more.
    redis.call('UNLINK', INDEX)
    total = 0
    break
  end
  forget(first)
  forgotten = forgotten + 1
end

local kept = 0
if total + size <= MOST then
  redis.call('SET', PREFIX .. NAME, ANSWER, 'PX', TTL)
  redis.call('HSET', INDEX, NAME, size .. '|' .. ABOUT)
  redis.call('ZADD', ENDS, now + TTL, NAME)
  total = total + size
  kept = 1
end
if total > 0 then
  redis.call('HSET', INDEX, '', total)
  for _, key in ipairs(KEYS) do
    if redis.call('PTTL', key) < TTL then
      redis.call('PEXPIRE', key, TTL)
    end
  end
else
  redis.call('UNLINK', INDEX, ENDS)
end
return kept
