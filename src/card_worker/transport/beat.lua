-- Counts one heartbeat of a consumer; returns all consumers with their numbers of heartbeats.
--
-- KEYS 1   the sorted set of consumers
-- ARGV 1   the consumer

-- A key of another type is renamed: otherwise no consumer could take anything.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and kind ~= 'zset' then redis.call('RENAME', KEYS[1], KEYS[1] .. '.foreign') end
local beats = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
-- Removed first: a server at `maxmemory` accepts that, and then the write that follows.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], beats + 1, ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
