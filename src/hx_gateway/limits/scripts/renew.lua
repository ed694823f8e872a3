-- Give the leases of calls that are known some more time: see CounterStore.renew.
-- Arguments: calls, for each: call, lease, counts money (1 or 0), scopes with slots, for each: name.
for _ = 1, number() do
  local call, lease, charged = argument(), number(), argument() == '1'
  local known
  if charged then
    known = redis.call('HEXISTS', MONEY, 'i:' .. call) == 1
    if known then
      due_at('i:' .. call, now + lease)
    end
  else
    known = mark_of(call) == 'a'
    if known then
      set_mark(call, 'a', math.max(MARK_US, lease))
    end
  end
  for _ = 1, number() do
    local scope = argument()
    if known then
      set_slot(scope, call, lease)
    end
  end
end
return 0
