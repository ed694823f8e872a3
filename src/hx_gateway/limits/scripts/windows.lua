-- Return posted and reserved of windows, nil where one is cold: see CounterStore.windows. Arguments: windows.
local fields = {}
for place = 2, #ARGV - 1 do
  fields[#fields + 1] = 'p:' .. ARGV[place]
  fields[#fields + 1] = 'r:' .. ARGV[place]
end
if redis.call('ZSCORE', DUE, '') == false then
  return {}
end
return redis.call('HMGET', MONEY, unpack(fields))
