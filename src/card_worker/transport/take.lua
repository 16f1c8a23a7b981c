-- Moves waiting entries into the in-flight hash of a consumer and returns them.
--
-- KEYS     the lists to take from, in their order. No other key is named here: Redis 6.2 notifies a
--          consumer of changes to all keys of a script that has read one of them.
-- ARGV 1   the in-flight hash of the consumer; empty for a consumer that acknowledges nothing: what it
--          takes is gone, and no key but those in KEYS is used
--      2   the sorted set of consumers
--      3   the consumer
--      4   how many entries to take at most
--      5   how many bytes to take at most; the last entry may exceed it
--      6   the number of the next entry; it rises with each entry that this consumer takes
--      7   of how many lists, the last ones in KEYS, at most one entry is taken together
--      8   the list of oversize entries; their raw bytes are at this key, ".of." and an id
--      9   how many bytes an entry may have
--      10  how many bytes of oversize entries are kept at most
--      11  for how many seconds an oversize entry is kept
--
-- Returns place, entry, place, entry ... A place is the number in 15 digits, a blank, the list.
-- An entry is written to the hash before it is removed from its list, so that no failure in between
-- loses it.

-- With client tracking on, this also requests one notification when one of the lists changes.
if redis.call('EXISTS', unpack(KEYS)) == 0 then return {} end

local inflight, consumers, consumer, aside = ARGV[1], ARGV[2], ARGV[3], ARGV[8]
local entries_max, bytes_max, number = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local entry_bytes_max, first_single = tonumber(ARGV[9]), #KEYS - ARGV[7] + 1
local SHOWN_BYTES, FIELDS_MAX, MOVED_BACK_MAX = 4096, 1000, 10000
local taken, bytes, single_taken = {}, 0, false

local function next_place(list)
  local place = string.format('%015d %s', number, list)
  number = number + 1
  return place
end

-- Returns how many bytes of oversize entries are kept; forgets those that have expired. Values that
-- are no size count as nothing; a key of another type in place of the hash counts as full.
local function bytes_kept()
  local sizes, sum = redis.pcall('HGETALL', aside .. '.sizes'), 0
  if sizes.err then return math.huge end
  for i = 1, #sizes, 2 do
    local size = tonumber(sizes[i + 1])
    if size and size > 0 and redis.call('EXISTS', sizes[i]) == 1 then sum = sum + size
    else redis.call('HDEL', aside .. '.sizes', sizes[i]) end
  end
  return sum
end

-- Moves the last entry of a list, of so many bytes, to a key. LMOVE copies the entry twice. So if the
-- other entries are few and small, the list is renamed, and they are moved back.
local function split_off(list, key, size)
  local others, memory = redis.call('LLEN', list) - 1, redis.pcall('MEMORY', 'USAGE', list, 'SAMPLES', 0)
  if others > MOVED_BACK_MAX or type(memory) ~= 'number' or memory > 2 * size then
    return redis.call('LMOVE', list, key, 'RIGHT', 'LEFT')
  end
  redis.call('RENAME', list, key)
  for _ = 1, others do redis.call('LMOVE', key, list, 'LEFT', 'RIGHT') end
end

-- Moves an oversize entry to a key of its own; a short description goes to the consumer instead.
-- The bytes of both count, so that no other large entry is read in the same run.
local function set_aside(list, raw)
  local about = { list = list, bytes = #raw, sha1 = redis.sha1hex(raw) }
  about.begins = string.gsub(string.sub(raw, 1, SHOWN_BYTES), '.', function(c)
    return string.format('%02x', string.byte(c))
  end)
  if inflight ~= '' and bytes_kept() + #raw <= tonumber(ARGV[10]) then
    about.key = aside .. '.of.' .. consumer .. '.' .. number
  end
  local place, description = next_place(aside), 'aside:' .. cjson.encode(about)
  if inflight ~= '' then redis.call('HSET', inflight, place, description) end
  if about.key then
    split_off(list, about.key, #raw)
    redis.call('EXPIRE', about.key, ARGV[11])
    redis.call('HSET', aside .. '.sizes', about.key, #raw)
  else
    redis.call('RPOP', list)
  end
  taken[#taken + 1], taken[#taken + 2] = place, description
  bytes = bytes + #description + #raw
end

-- Takes up to `count` entries from the end of a list. Returns how many; false and the error if the
-- server refused.
local function take(list, count)
  local fields, large = {}, nil
  while #fields < 2 * count and #fields < FIELDS_MAX and bytes < bytes_max do
    -- Entries are of unknown size, so they are read one by one.
    local raw = redis.pcall('LINDEX', list, -#fields / 2 - 1)
    if not raw then break end
    if raw.err then
      -- A key of another type is no queue. The other lists are still served.
      if string.find(raw.err, 'WRONGTYPE', 1, true) then return 0 end
      return false, raw
    end
    if #raw > entry_bytes_max then
      large = raw
      break
    end
    local place = next_place(list)
    fields[#fields + 1], fields[#fields + 2] = place, raw
    taken[#taken + 1], taken[#taken + 2] = place, raw
    bytes = bytes + #raw
  end
  if #fields > 0 then
    if inflight ~= '' then redis.call('HSET', inflight, unpack(fields)) end
    redis.call('LTRIM', list, 0, -#fields / 2 - 1)
  elseif large then
    set_aside(list, large)
    return 1
  end
  return #fields / 2
end

-- A server at `maxmemory` refuses the first write of a script, unless it is one that frees memory,
-- and accepts all writes after it.
if inflight ~= '' then
  redis.call('ZREM', consumers, '')
  redis.call('ZADD', consumers, 'NX', 0, consumer)
end
for turn = 1, #KEYS do
  while true do
    local single = turn >= first_single
    local room = entries_max - #taken / 2
    if room <= 0 or bytes >= bytes_max or (single and single_taken) then break end
    local got, refusal = take(KEYS[turn], single and 1 or room)
    if not got then return refusal end
    if got == 0 then break end
    single_taken = single_taken or single
  end
end
return taken
