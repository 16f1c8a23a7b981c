-- Runs each command that kombu and the scripts of this transport use, on an unused key.
--
-- ARGV     none
-- KEYS 1   an unused key; it is unused again afterwards
--      ..  keys that must be accessible: the server checks that before it runs a script
-- Returns the name of the first command that was refused, and the server's error; nothing if none.

local key = KEYS[1]
local commands = {
  { 'ZREM', key, 'a' }, { 'ZADD', key, 'NX', 0, 'a' }, { 'ZSCORE', key, 'a' },
  { 'ZRANGE', key, 0, -1, 'WITHSCORES' }, { 'ZRANGEBYSCORE', key, 0, 0 }, { 'ZREM', key, 'a' },
  { 'HSET', key, 'a', 'a' }, { 'HGET', key, 'a' }, { 'HGETALL', key }, { 'HKEYS', key },
  { 'HDEL', key, 'a' },
  { 'LPUSH', key, 'a' }, { 'RPUSH', key, 'a' }, { 'LLEN', key }, { 'LINDEX', key, -1 },
  { 'LMOVE', key, key, 'RIGHT', 'LEFT' }, { 'RENAME', key, key }, { 'RPOP', key },
  { 'LTRIM', key, 1, 0 },
  { 'SREM', key, 'a' }, { 'SADD', key, 'a' }, { 'SMEMBERS', key }, { 'SREM', key, 'a' },
  { 'EXISTS', key }, { 'TYPE', key }, { 'EXPIRE', key, 1 }, { 'DEL', key }, { 'TIME' },
}
for _, command in ipairs(commands) do
  local reply = redis.pcall(unpack(command))
  if type(reply) == 'table' and reply.err then return { command[1], reply.err } end
end
return {}
