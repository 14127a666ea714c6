-- One call of rate(), on the time of this server, in one step: the maths of memory.rs and series.rs.
-- KEYS: the counts of the key, the windows of its namespace, a mark for the message, when this store began, all namespaces.
-- ARGV: limit, seconds, weight, milliseconds that a message is remembered, the namespace, and in tests the time.
local BUCKETS = 60
local limit, seconds, weight = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = tonumber(ARGV[6])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local function width(window)
    return math.ceil(window * 1000 / BUCKETS)
end

-- The number of the first bucket whose end is still in the window.
local function oldest(window)
    return math.floor(math.max(0, now + 1 - window * 1000) / width(window))
end

local began = redis.call('GET', KEYS[4])
if not began then
    began = string.format('%.0f', now)
    redis.call('SET', KEYS[4], began)
end

redis.call('SADD', KEYS[5], ARGV[5])
redis.call('SADD', KEYS[2], string.format('%.0f', seconds))
local windows, longest = {}, 0
for _, window in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    windows[#windows + 1] = tonumber(window)
    longest = math.max(longest, tonumber(window))
end

-- Fields are `window:bucket`, and `window` once a window is kept for this key.
local kept, counts, known = {}, {}, 0
local fields = redis.call('HGETALL', KEYS[1])
for at = 1, #fields, 2 do
    local window, bucket = string.match(fields[at], '^(%d+):(%d+)$')
    if window then
        window, bucket = tonumber(window), tonumber(bucket)
        if bucket < oldest(window) then
            redis.call('HDEL', KEYS[1], fields[at])
        else
            counts[window] = counts[window] or {}
            counts[window][bucket] = tonumber(fields[at + 1])
        end
    else
        window = tonumber(fields[at])
        kept[window] = true
        known = math.max(known, window)
    end
end

local changed = false
local function add(window, bucket, count)
    counts[window] = counts[window] or {}
    counts[window][bucket] = (counts[window][bucket] or 0) + count
    redis.call('HINCRBY', KEYS[1], string.format('%.0f:%.0f', window, bucket), string.format('%.0f', count))
    changed = true
end

local function keep(window)
    if kept[window] then return end
    kept[window] = true
    redis.call('HSET', KEYS[1], string.format('%.0f', window), 1)
    -- From the longest there is; as late as it can have been, so that no limit is loosened.
    for bucket, count in pairs(known > 0 and counts[known] or {}) do
        local last = math.min((bucket + 1) * width(known) - 1, now)
        add(window, math.floor(last / width(window)), count)
    end
end

-- All of them, for what is not kept while it is known cannot be asked for later.
if known > 0 then
    for _, window in ipairs(windows) do keep(window) end
end
local sum = 0
for bucket, count in pairs(counts[seconds] or {}) do
    if bucket >= oldest(seconds) then sum = sum + count end
end

local within = 0
if limit > 0 then
    if KEYS[3] ~= '' and redis.call('EXISTS', KEYS[3]) == 1 then
        within = 1
    elseif sum + weight <= limit then
        within, sum = 1, sum + weight
        for _, window in ipairs(windows) do keep(window) end
        for _, window in ipairs(windows) do add(window, math.floor(now / width(window)), weight) end
        if KEYS[3] ~= '' then redis.call('SET', KEYS[3], 1, 'PX', ARGV[4]) end
    end
end
if changed then redis.call('PEXPIRE', KEYS[1], longest * 1000 + width(longest)) end
return { within, string.format('%.0f', sum), began }
