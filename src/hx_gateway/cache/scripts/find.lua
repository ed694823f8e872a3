-- An answer, if the index still knows of it: what was purged, or lost its index, is not there.
-- KEYS[1]: the answer. KEYS[2]: the tenant's index (hash). ARGV[1]: the answer's name in it.
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  return false
end
return redis.call('GET', KEYS[1])
