-- Runs commands on an unused key, to see whether they are allowed.
--
-- ARGV 1   the commands: a JSON array of arrays of words. They leave nothing behind
-- KEYS 1   the unused key
--      ..  keys that must be accessible: the server checks that before it runs a script
-- Returns the name of the first command that was refused, and the server's error; nothing if none.

for _, command in ipairs(cjson.decode(ARGV[1])) do
  local reply = redis.pcall(unpack(command))
  if type(reply) == 'table' and reply.err and not string.find(reply.err, 'WRONGTYPE', 1, true) then
    return { command[1], reply.err }
  end
end
return {}
