-- From Kafka: one record is one `dnstap.Dnstap` protobuf, without a length before it.
--
-- Set the brokers, the topic and the number of consumers (at most the number of partitions, and of CPUs). The server
-- needs the file proto/dnstap.proto as dnstap.proto in its `format_schema_path` (/var/lib/clickhouse/format_schemas).
CREATE TABLE IF NOT EXISTS dnstap.queue
(
    identity Nullable(String),
    version Nullable(String),
    `message.type` Nullable(Int32),
    `message.socket_protocol` Nullable(Int32),
    `message.query_address` Nullable(String),
    `message.response_address` Nullable(String),
    `message.query_port` Nullable(UInt32),
    `message.response_port` Nullable(UInt32),
    `message.query_time_sec` Nullable(UInt64),
    `message.query_time_nsec` Nullable(UInt32),
    `message.query_message` Nullable(String),
    `message.query_zone` Nullable(String),
    `message.response_time_sec` Nullable(UInt64),
    `message.response_time_nsec` Nullable(UInt32),
    `message.response_message` Nullable(String)
)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = '127.0.0.1:9092',
    kafka_topic_list = 'dnstap',
    kafka_group_name = 'clickhouse',
    kafka_format = 'ProtobufSingle',
    kafka_schema = 'dnstap.proto:Dnstap',
    kafka_num_consumers = 1,
    kafka_thread_per_consumer = 1,
    kafka_max_block_size = 262144,
    kafka_poll_max_batch_size = 65536,
    kafka_flush_interval_ms = 2000,
    -- A record that cannot be read stops nothing: it goes to the table `unreadable`.
    kafka_handle_error_mode = 'stream';

CREATE MATERIALIZED VIEW IF NOT EXISTS dnstap.from_kafka TO dnstap.messages AS
WITH
    dns_name(m) AS name,
    dns_name_end(m, name) AS end,
    end > 0 AND end + 3 <= length(m) AS is_whole
SELECT
    -- Without a valid time: when the record came to the broker.
    coalesce(if(is_response, answered, asked), if(is_response, asked, answered),
        CAST(_timestamp_ms, 'Nullable(DateTime64(9, \'UTC\'))'), now64(9, 'UTC')) AS time,
    ifNull(identity, '') AS identity,
    ifNull(version, '') AS version,
    dnstap_type(ifNull(`message.type`, 0)) AS type,
    if(isNull(`message.socket_protocol`), '', dnstap_protocol(ifNull(`message.socket_protocol`, 0))) AS socket_protocol,
    dnstap_address(`message.query_address`) AS query_address,
    toUInt16(ifNull(`message.query_port`, 0)) AS query_port,
    dnstap_address(`message.response_address`) AS response_address,
    toUInt16(ifNull(`message.response_port`, 0)) AS response_port,
    toUnixTimestamp64Nano(answered) - toUnixTimestamp64Nano(asked) AS latency_ns,
    if(empty(ifNull(`message.query_zone`, '')), '',
        dns_name(concat(repeat('\0', 12), ifNull(`message.query_zone`, ''), '\0')).2) AS query_zone,
    toUInt32(length(m)) AS size,
    if(length(m) >= 12, dns_u16(m, 1), 0) AS id,
    if(length(m) >= 12, dns_opcode(bitAnd(bitShiftRight(dns_u16(m, 3), 11), 15)), '') AS opcode,
    if(length(m) >= 12, dns_rcode(bitAnd(dns_u16(m, 3), 15)), '') AS rcode,
    dns_flag(m, 15) AS qr, dns_flag(m, 10) AS aa, dns_flag(m, 9) AS tc, dns_flag(m, 8) AS rd, dns_flag(m, 7) AS ra,
    dns_flag(m, 5) AS ad, dns_flag(m, 4) AS cd,
    if(length(m) >= 12, dns_u16(m, 5), 0) AS qdcount,
    if(length(m) >= 12, dns_u16(m, 7), 0) AS ancount,
    if(length(m) >= 12, dns_u16(m, 9), 0) AS nscount,
    if(length(m) >= 12, dns_u16(m, 11), 0) AS arcount,
    if(end > 0, name.2, '') AS qname,
    if(is_whole, dns_class(dns_u16(m, end + 2)), '') AS qclass,
    if(is_whole, dns_type(dns_u16(m, end)), '') AS qtype,
    m AS message
FROM
(
    -- A query of its own, so that each of these is worked out once for a record, and not in each step of dns_name().
    SELECT
        identity, version, `message.type`, `message.socket_protocol`, `message.query_address`,
        `message.response_address`, `message.query_port`, `message.response_port`, `message.query_zone`, _timestamp_ms,
        -- The types are numbered in pairs: a query is odd, its response is even.
        ifNull(`message.type`, 0) % 2 = 0 AS is_response,
        dnstap_time(`message.query_time_sec`, `message.query_time_nsec`) AS asked,
        dnstap_time(`message.response_time_sec`, `message.response_time_nsec`) AS answered,
        -- The message that the frame is about; if it is not there, the other one.
        ifNull(if(is_response, `message.response_message`, `message.query_message`),
            ifNull(if(is_response, `message.query_message`, `message.response_message`), '')) AS m
    FROM dnstap.queue
    WHERE empty(_error)
);

CREATE TABLE IF NOT EXISTS dnstap.unreadable
(
    arrived DateTime DEFAULT now(),
    partition UInt64,
    offset UInt64,
    error String,
    record String
)
ENGINE = MergeTree ORDER BY (arrived, partition, offset) TTL arrived + INTERVAL 7 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS dnstap.from_kafka_unreadable TO dnstap.unreadable AS
SELECT _partition AS partition, _offset AS offset, _error AS error, _raw_message AS record
FROM dnstap.queue
WHERE notEmpty(_error);
