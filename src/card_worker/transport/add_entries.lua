-- Adds entries to a stream, all with the same fields.
--
-- KEYS 1   the stream
-- ARGV 1   number of fields of an entry
--      ..  their names, then the values of each entry
--
-- A server at `maxmemory` refuses the first XADD; if it accepts that, it accepts the others, too.

local names = tonumber(ARGV[1])
for first = 2 + names, #ARGV, names do
  local entry = {}
  for i = 1, names do
    entry[2 * i - 1], entry[2 * i] = ARGV[1 + i], ARGV[first + i - 1]
  end
  redis.call('XADD', KEYS[1], '*', unpack(entry))
end
