-- From JSON lines, as `-o json:PATH` and `dnstap-agent read --format json` write them. Load a file with:
--
--   clickhouse-client --query 'INSERT INTO dnstap.lines FORMAT JSONEachRow' < dns.json
--
-- Members that are not named here (records, EDNS, what the agent adds) are left out.
CREATE TABLE IF NOT EXISTS dnstap.lines
(
    time String,
    identity String,
    version String,
    type String,
    socket_protocol String,
    query_address String,
    query_port UInt16,
    response_address String,
    response_port UInt16,
    latency_ns Nullable(Int64),
    query_zone String,
    size UInt32,
    message Tuple(
        id UInt16, opcode String, rcode String,
        flags Tuple(qr Bool, aa Bool, tc Bool, rd Bool, ra Bool, ad Bool, cd Bool),
        qname String, qclass String, qtype String,
        counts Tuple(qd UInt16, an UInt16, ns UInt16, ar UInt16))
)
ENGINE = Null;

CREATE MATERIALIZED VIEW IF NOT EXISTS dnstap.from_lines TO dnstap.messages AS
SELECT
    ifNull(parseDateTime64BestEffortOrNull(time, 9, 'UTC'), now64(9, 'UTC')) AS time,
    identity, version, type, socket_protocol,
    if(empty(query_address), toIPv6('::'), toIPv6(query_address)) AS query_address,
    query_port,
    if(empty(response_address), toIPv6('::'), toIPv6(response_address)) AS response_address,
    response_port,
    latency_ns,
    lower(query_zone) AS query_zone,
    size,
    message.id AS id, message.opcode AS opcode, message.rcode AS rcode,
    message.flags.qr AS qr, message.flags.aa AS aa, message.flags.tc AS tc, message.flags.rd AS rd,
    message.flags.ra AS ra, message.flags.ad AS ad, message.flags.cd AS cd,
    message.counts.qd AS qdcount, message.counts.an AS ancount, message.counts.ns AS nscount,
    message.counts.ar AS arcount,
    lower(message.qname) AS qname, message.qclass AS qclass, message.qtype AS qtype,
    '' AS message
FROM dnstap.lines;
