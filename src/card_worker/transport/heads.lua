-- Returns the SHA-1 of the entry of each list that is taken next; an empty text for a list without
-- entries, and for a key of another type.
--
-- KEYS     the lists

local heads = {}
for turn, list in ipairs(KEYS) do
  local raw = redis.pcall('LINDEX', list, -1)
  if type(raw) == 'table' and not string.find(raw.err, 'WRONGTYPE', 1, true) then return raw end
  heads[turn] = type(raw) == 'string' and redis.sha1hex(raw) or ''
end
return heads
