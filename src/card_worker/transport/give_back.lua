-- Puts entries of a consumer back at the heads of the lists they were taken from, oldest first.
--
-- KEYS 1   the sorted set of consumers
--      2   the in-flight hash of the consumer
--      3   the list for entries that can't go back to where they came from
-- ARGV 1   the consumer
--      2   'leave' to remove it from the set when nothing is left; its number of heartbeats to do
--          so only if that is still its number; '' to leave the set unchanged
--      3   the mark that the entries get: a blank if their consumer has died, a tab if not
--      4   how many of the following arguments are lists; 0 allows any list
--      ..  the lists that entries may go back to, then the places of the entries; none for all
--
-- Returns how many entries were put back; -1 if the consumer has sent a heartbeat meanwhile.
-- An entry is removed from the hash only after it was pushed. A returned entry gets the mark at its
-- end, where JSON allows white space: the number of marks is the number of returns. An entry that
-- does not end with } is not a message and gets no mark.

-- A server at `maxmemory` refuses the first write of a script, unless it is one that frees memory,
-- and accepts all writes after it.
redis.call('ZREM', KEYS[1], '')
local beats = ARGV[2] ~= '' and ARGV[2] ~= 'leave'
if beats and redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return -1 end

local known, last_list, places = {}, 4 + ARGV[4], {}
for i = 5, last_list do known[ARGV[i]] = true end
for i = last_list + 1, #ARGV do places[#places + 1] = ARGV[i] end
local is_hash = redis.call('TYPE', KEYS[2]).ok == 'hash'
if #places == 0 and is_hash then places = redis.call('HKEYS', KEYS[2]) end
table.sort(places, function(one, other) return one > other end)

local function push(list, raw)
  return type(redis.pcall('RPUSH', list, raw)) == 'number'
end

local given_back = 0
for _, place in ipairs(places) do
  local raw = is_hash and redis.call('HGET', KEYS[2], place)
  if raw then
    local list = string.match(place, '^%d+ (.+)$')
    if string.find(raw, '}[ \t]*$') then raw = raw .. ARGV[3] end
    local allowed = list and (ARGV[4] == '0' or known[list] or list == KEYS[3])
    if (allowed and push(list, raw)) or push(KEYS[3], raw) then
      redis.call('HDEL', KEYS[2], place)
      given_back = given_back + 1
    end
  end
end
if ARGV[2] ~= '' and not (is_hash and redis.call('EXISTS', KEYS[2]) == 1) then
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return given_back
