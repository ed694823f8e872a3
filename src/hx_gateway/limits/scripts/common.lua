-- What all scripts of a tenant begin with.
-- KEYS[1]: the tenant's money (hash). KEYS[2]: what is due there (sorted set). ARGV[1]: the prefix of its other keys.
-- The last argument: the time in microseconds, or 0 for the server's.
--
-- Money, fields: e epoch; p:<window> posted; r:<window> reserved; i:<call> an open reservation and x:<call> a lapsed
-- one, both "amount|window|window". Due, members: i:<call>, x:<call>, w:<window> by the moment they are due; the empty
-- member never is: it shows that the set was not lost apart from the hash.
-- Others: <prefix>q:<scope>, <prefix>k:<scope> when the bucket is full again; <prefix>s:<scope> slots, call by expiry;
-- <prefix>c:<call> "a|expiry" a call that counts no money, "x|expiry" one that must not begin.
-- All numbers are whole and below 2^53, which doubles hold exactly. Keys expire by the server's clock only to be tidy:
-- whatever is decided compares moments.
local MONEY, DUE, PREFIX = KEYS[1], KEYS[2], ARGV[1]
local now = tonumber(ARGV[#ARGV])
if now == 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local HOUR_US = 3600000000
local DAY_US = 24 * HOUR_US
local MARK_US = HOUR_US
local LAPSED_US = 48 * HOUR_US
local WINDOW_US = 40 * DAY_US
local LONGEST_US = 315576000000000

local next_argument = 1
local function argument()
  next_argument = next_argument + 1
  return ARGV[next_argument]
end

local function number()
  return tonumber(argument())
end

local function text(value)
  return string.format('%.0f', value)
end

-- Keys outlive what they tell by a little, so that nothing hangs on when exactly the server looks for those that expire.
local function milliseconds(microseconds)
  return text(math.ceil(microseconds / 1000) + 10000)
end

local function in_epoch(epoch)
  return redis.call('HGET', MONEY, 'e') == epoch and redis.call('ZSCORE', DUE, '') ~= false
end

local function due_at(member, moment)
  redis.call('ZADD', DUE, text(moment), member)
end

-- Returns the amount and the windows of a reservation.
local function held(value)
  local windows = {}
  local bar = string.find(value, '|', 1, true)
  for window in string.gmatch(string.sub(value, bar), '|([^|]+)') do
    windows[#windows + 1] = window
  end
  return tonumber(string.sub(value, 1, bar - 1)), windows
end

-- One that was forgotten is not begun again by a late call: the durable record has it.
local function post(windows, amount, released)
  for _, window in ipairs(windows) do
    if redis.call('HEXISTS', MONEY, 'p:' .. window) == 1 then
      redis.call('HINCRBY', MONEY, 'p:' .. window, text(amount))
      if released ~= 0 then
        redis.call('HINCRBY', MONEY, 'r:' .. window, text(-released))
      end
    end
  end
end

-- Returns whether a call is remembered by itself: 'a' goes on, 'x' must not begin.
local function mark_of(call)
  local mark = redis.call('GET', PREFIX .. 'c:' .. call)
  if mark and tonumber(string.sub(mark, 3)) > now then
    return string.sub(mark, 1, 1)
  end
  return nil
end

local function set_mark(call, kind, length)
  redis.call('SET', PREFIX .. 'c:' .. call, kind .. '|' .. text(now + length), 'PX', milliseconds(length))
end

local function set_slot(scope, call, lease)
  local key = PREFIX .. 's:' .. scope
  redis.call('ZADD', key, text(now + lease), call)
  redis.call('PEXPIRE', key, milliseconds(math.max(lease, DAY_US)))
end

local function tat_of(kind, scope)
  return tonumber(redis.call('GET', PREFIX .. kind .. scope) or 0)
end

local function set_tat(kind, scope, tat)
  if tat > now then
    redis.call('SET', PREFIX .. kind .. scope, text(tat), 'PX', milliseconds(tat - now))
  else
    redis.call('DEL', PREFIX .. kind .. scope)
  end
end
