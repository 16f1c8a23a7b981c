-- Counts one heartbeat of a consumer; returns all consumers with their numbers of heartbeats.
--
-- KEYS 1   the sorted set of consumers
-- ARGV 1   the consumer

local beats = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
-- Removed first: a server at `maxmemory` accepts that, and then the write that follows.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], beats + 1, ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
