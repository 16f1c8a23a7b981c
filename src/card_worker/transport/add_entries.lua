-- Adds entries to a stream, all with the same fields, and removes its oldest entries.
--
-- KEYS 1   the stream
-- ARGV 1   maximum of entries
--      2   maximum age of an entry in seconds
--      3   number of fields of an entry
--      ..  their names, then the values of each entry
--
-- Whole nodes of entries are removed, 10,000 entries at most, so that this takes a moment.
-- A server at `maxmemory` refuses the first XADD; if it accepts that, it accepts the others, too. What
-- is old is removed even then, or nothing would ever free memory.

local names = tonumber(ARGV[3])
local added = redis.status_reply('OK')
for first = 4 + names, #ARGV, names do
  local entry = {}
  for i = 1, names do
    entry[2 * i - 1], entry[2 * i] = ARGV[3 + i], ARGV[first + i - 1]
  end
  added = redis.pcall('XADD', KEYS[1], '*', unpack(entry))
  if type(added) == 'table' and added.err then
    break
  end
end
redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[1])
local oldest_s = math.max(0, tonumber(redis.call('TIME')[1]) - tonumber(ARGV[2]))
redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%.0f', oldest_s * 1000))
return added
