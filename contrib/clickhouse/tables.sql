-- Tables that the messages go to, and the summaries of them. kafka.sql or json.sql fill the table `messages`.

-- One row for each dnstap message. The names are those of the JSON lines (docs/dnstap-json.schema.json).
CREATE TABLE IF NOT EXISTS dnstap.messages
(
    time DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    identity LowCardinality(String),
    version LowCardinality(String),
    type LowCardinality(String),
    socket_protocol LowCardinality(String),
    query_address IPv6 CODEC(ZSTD(1)),
    query_port UInt16 CODEC(ZSTD(1)),
    response_address IPv6 CODEC(ZSTD(1)),
    response_port UInt16 CODEC(ZSTD(1)),
    latency_ns Nullable(Int64) CODEC(ZSTD(1)),
    query_zone String CODEC(ZSTD(1)),
    size UInt32 CODEC(ZSTD(1)),
    id UInt16 CODEC(ZSTD(1)),
    opcode LowCardinality(String),
    rcode LowCardinality(String),
    qr Bool, aa Bool, tc Bool, rd Bool, ra Bool, ad Bool, cd Bool,
    qdcount UInt16 CODEC(ZSTD(1)),
    ancount UInt16 CODEC(ZSTD(1)),
    nscount UInt16 CODEC(ZSTD(1)),
    arcount UInt16 CODEC(ZSTD(1)),
    qname String CODEC(ZSTD(1)),                                   -- lower case; empty if there is no question
    qclass LowCardinality(String),
    qtype LowCardinality(String),
    message String CODEC(ZSTD(3)) TTL toDateTime(time) + INTERVAL 3 DAY, -- the bytes; from Kafka only
    INDEX by_client query_address TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_qname qname TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY toDate(time)
-- Names of a zone are neighbours within an hour. So they compress well, and a search below a name reads little.
ORDER BY (toStartOfHour(time), reverse(qname), type, time)
TTL toDateTime(time) + INTERVAL 30 DAY;

-- Messages and bytes by minute.
CREATE TABLE IF NOT EXISTS dnstap.by_minute
(
    minute DateTime('UTC'),
    identity LowCardinality(String),
    type LowCardinality(String),
    socket_protocol LowCardinality(String),
    qtype LowCardinality(String),
    messages UInt64,
    bytes UInt64,
    truncated UInt64
)
ENGINE = SummingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, identity, type, socket_protocol, qtype)
TTL minute + INTERVAL 400 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS dnstap.to_by_minute TO dnstap.by_minute AS
SELECT toStartOfMinute(toDateTime(time, 'UTC')) AS minute, identity, type, socket_protocol, qtype,
    count() AS messages, sum(size) AS bytes, countIf(tc) AS truncated
FROM dnstap.messages
GROUP BY minute, identity, type, socket_protocol, qtype;

-- Responses by response code.
CREATE TABLE IF NOT EXISTS dnstap.by_rcode
(
    minute DateTime('UTC'),
    identity LowCardinality(String),
    type LowCardinality(String),
    rcode LowCardinality(String),
    messages UInt64
)
ENGINE = SummingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, identity, type, rcode)
TTL minute + INTERVAL 400 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS dnstap.to_by_rcode TO dnstap.by_rcode AS
SELECT toStartOfMinute(toDateTime(time, 'UTC')) AS minute, identity, type, rcode, count() AS messages
FROM dnstap.messages
WHERE endsWith(type, '_RESPONSE')
GROUP BY minute, identity, type, rcode;

-- Names by hour. This is the largest summary: somebody who asks for random names makes a row with each question.
CREATE TABLE IF NOT EXISTS dnstap.by_name
(
    hour DateTime('UTC'),
    type LowCardinality(String),
    qname String CODEC(ZSTD(1)),
    messages UInt64,
    bytes UInt64,
    nxdomain UInt64,
    servfail UInt64
)
ENGINE = SummingMergeTree
PARTITION BY toDate(hour)
ORDER BY (hour, type, reverse(qname), qname)
TTL hour + INTERVAL 7 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS dnstap.to_by_name TO dnstap.by_name AS
SELECT toStartOfHour(toDateTime(time, 'UTC')) AS hour, type, qname, count() AS messages, sum(size) AS bytes,
    countIf(rcode = 'NXDOMAIN') AS nxdomain, countIf(rcode = 'SERVFAIL') AS servfail
FROM dnstap.messages
GROUP BY hour, type, qname;

-- Clients by network (/24 for IPv4, /56 for IPv6), where this server is asked.
CREATE TABLE IF NOT EXISTS dnstap.by_client
(
    minute DateTime('UTC'),                                        -- a multiple of five
    type LowCardinality(String),
    prefix IPv6,
    messages SimpleAggregateFunction(sum, UInt64),
    bytes SimpleAggregateFunction(sum, UInt64),
    nxdomain SimpleAggregateFunction(sum, UInt64),
    names AggregateFunction(uniq, String)
)
ENGINE = AggregatingMergeTree
PARTITION BY toDate(minute)
ORDER BY (minute, type, prefix)
TTL minute + INTERVAL 30 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS dnstap.to_by_client TO dnstap.by_client AS
SELECT toStartOfFiveMinutes(toDateTime(time, 'UTC')) AS minute, type, dns_prefix(query_address) AS prefix,
    count() AS messages, sum(size) AS bytes, countIf(rcode = 'NXDOMAIN') AS nxdomain, uniqState(qname) AS names
FROM dnstap.messages
WHERE startsWith(type, 'CLIENT_') OR startsWith(type, 'AUTH_') OR startsWith(type, 'UPDATE_')
GROUP BY minute, type, prefix;

-- Response times. A quantile is at most 1 % wrong.
CREATE TABLE IF NOT EXISTS dnstap.latency
(
    minute DateTime('UTC'),
    identity LowCardinality(String),
    type LowCardinality(String),
    responses SimpleAggregateFunction(sum, UInt64),
    quantiles AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.99), Int64)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, identity, type)
TTL minute + INTERVAL 400 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS dnstap.to_latency TO dnstap.latency AS
SELECT toStartOfMinute(toDateTime(time, 'UTC')) AS minute, identity, type,
    count() AS responses, quantilesDDState(0.01, 0.5, 0.9, 0.99)(assumeNotNull(latency_ns)) AS quantiles
FROM dnstap.messages
WHERE isNotNull(latency_ns) AND endsWith(type, '_RESPONSE')
GROUP BY minute, identity, type;
