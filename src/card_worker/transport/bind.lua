-- Adds a queue to the binding table of an exchange.
--
-- KEYS 1   the table
--      2   the table of bindings that don't expire
-- ARGV 1   the binding, as kombu writes it

for _, table in ipairs(KEYS) do
  -- A server at `maxmemory` accepts a write that frees memory, and all that come after it.
  redis.call('SREM', table, '')
  redis.call('SADD', table, ARGV[1])
end
