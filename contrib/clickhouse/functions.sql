-- Functions that read a DNS message in wire form. They are used by kafka.sql.
--
-- An SQL function is a macro: it costs nothing by itself, and it works on all versions since 23.10 (arrayFold).
-- Positions count from 1, as in substring().

CREATE DATABASE IF NOT EXISTS dnstap;

-- 16-bit number at a position.
CREATE OR REPLACE FUNCTION dns_u16 AS (m, at) -> reinterpretAsUInt16(reverse(substring(m, at, 2)));

-- Bit of the 16 bits behind the id: 15 is QR, 0 is the lowest bit of the response code.
CREATE OR REPLACE FUNCTION dns_flag AS (m, bit) -> length(m) >= 12 AND bitTest(dns_u16(m, 3), bit);

-- Label as in a zone file, in lower case (RFC 1035 section 5.1, RFC 4343).
CREATE OR REPLACE FUNCTION dns_label AS label -> if(
    match(label, '^[A-Za-z0-9_-]*$'),
    lower(label),
    arrayStringConcat(arrayMap(
        i -> multiIf(
            substring(label, i, 1) IN ('.', '"', '\\', '(', ')', ';', '@', '$'), concat('\\', substring(label, i, 1)),
            ascii(substring(label, i, 1)) BETWEEN 33 AND 126, lower(substring(label, i, 1)),
            concat('\\', leftPad(toString(reinterpretAsUInt8(substring(label, i, 1))), 3, '0'))),
        range(1, length(label) + 1))));

-- One step of reading a name: a state is (position of the next label or 0 at the end, name, position behind the name).
-- A name that cannot be read ends with position 0 behind it. A compression pointer cannot be read: in the first
-- question there is nothing before it that it could point to.
CREATE OR REPLACE FUNCTION dns_name_step AS (m, state) -> multiIf(
    state.1 = 0, state,
    state.1 > length(m), (0::UInt32, ''::String, 0::UInt32),
    reinterpretAsUInt8(substring(m, state.1, 1)) = 0,
        (0::UInt32, if(state.2 = '', '.', state.2), toUInt32(state.1 + 1)),
    reinterpretAsUInt8(substring(m, state.1, 1)) > 63, (0::UInt32, ''::String, 0::UInt32),
    state.1 + reinterpretAsUInt8(substring(m, state.1, 1)) >= length(m), (0::UInt32, ''::String, 0::UInt32),
    (
        toUInt32(state.1 + 1 + reinterpretAsUInt8(substring(m, state.1, 1))),
        concat(state.2, dns_label(substring(m, state.1 + 1, reinterpretAsUInt8(substring(m, state.1, 1)))), '.'),
        0::UInt32
    ));

-- Steps that a name needs at most: a label has two bytes at least. The first zero byte nearly always ends the name.
CREATE OR REPLACE FUNCTION dns_name_steps AS m ->
    if(position(m, '\0', 13) = 0, 128, least(128, intDiv(position(m, '\0', 13) - 13, 2) + 1));

-- Name at position 13, where the first question begins, as such a state. If a label has a zero byte in it, the first
-- fold stops too early, and the second one goes on. For all other messages the second one does nothing.
CREATE OR REPLACE FUNCTION dns_name_short AS m -> arrayFold(
    (state, i) -> dns_name_step(m, state),
    range(toUInt32(dns_name_steps(m))),
    (13::UInt32, ''::String, 0::UInt32));
CREATE OR REPLACE FUNCTION dns_name AS m -> arrayFold(
    (state, i) -> dns_name_step(m, state),
    range(toUInt32(if(dns_name_short(m).1 = 0, 0, 128))),
    dns_name_short(m));

-- Position behind the name of the first question, or 0 if there is none that can be read. Type and class follow it.
-- A name has at most 255 bytes. The conditions are multiplied, because ClickHouse reads the names of rows that AND has
-- chosen one by one, which takes seven times as long.
CREATE OR REPLACE FUNCTION dns_name_end AS (m, name) ->
    name.3 * (length(m) > 12) * (dns_u16(m, 5) > 0) * (name.3 <= 268);

-- Mnemonics, as `dnstap-agent read --format json` writes them.
CREATE OR REPLACE FUNCTION dns_type AS n -> transform(toUInt16(n), [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30,
    31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 55, 56, 57, 58, 59,
    60, 61, 62, 63, 64, 65, 66, 67, 68, 99, 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 128, 249, 250, 251,
    252, 253, 254, 255, 256, 257, 258, 259, 260, 261, 262, 32768, 32769],
    [
    'A', 'NS', 'MD', 'MF', 'CNAME', 'SOA', 'MB', 'MG', 'MR', 'NULL', 'WKS', 'PTR', 'HINFO', 'MINFO', 'MX', 'TXT',
    'RP', 'AFSDB', 'X25', 'ISDN', 'RT', 'NSAP', 'NSAP-PTR', 'SIG', 'KEY', 'PX', 'GPOS', 'AAAA', 'LOC', 'NXT',
    'EID', 'NIMLOC', 'SRV', 'ATMA', 'NAPTR', 'KX', 'CERT', 'A6', 'DNAME', 'SINK', 'OPT', 'APL', 'DS', 'SSHFP',
    'IPSECKEY', 'RRSIG', 'NSEC', 'DNSKEY', 'DHCID', 'NSEC3', 'NSEC3PARAM', 'TLSA', 'SMIMEA', 'HIP', 'NINFO',
    'RKEY', 'TALINK', 'CDS', 'CDNSKEY', 'OPENPGPKEY', 'CSYNC', 'ZONEMD', 'SVCB', 'HTTPS', 'DSYNC', 'HHIT', 'BRID',
    'SPF', 'UINFO', 'UID', 'GID', 'UNSPEC', 'NID', 'L32', 'L64', 'LP', 'EUI48', 'EUI64', 'NXNAME', 'TKEY', 'TSIG',
    'IXFR', 'AXFR', 'MAILB', 'MAILA', 'ANY', 'URI', 'CAA', 'AVC', 'DOA', 'AMTRELAY', 'RESINFO', 'WALLET', 'TA',
    'DLV'],
    concat('TYPE', toString(n)));
CREATE OR REPLACE FUNCTION dns_class AS n ->
    transform(toUInt16(n), [1, 3, 4, 254, 255], ['IN', 'CH', 'HS', 'NONE', 'ANY'], concat('CLASS', toString(n)));
CREATE OR REPLACE FUNCTION dns_opcode AS n -> transform(toUInt16(n), [0, 1, 2, 4, 5, 6],
    ['QUERY', 'IQUERY', 'STATUS', 'NOTIFY', 'UPDATE', 'DSO'], concat('OPCODE', toString(n)));
-- Only the four bits of the header. The upper bits are in the OPT record, which SQL does not read.
CREATE OR REPLACE FUNCTION dns_rcode AS n -> transform(toUInt16(n), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    ['NOERROR', 'FORMERR', 'SERVFAIL', 'NXDOMAIN', 'NOTIMP', 'REFUSED', 'YXDOMAIN', 'YXRRSET', 'NXRRSET', 'NOTAUTH',
     'NOTZONE', 'DSOTYPENI'], concat('RCODE', toString(n)));

-- Words of dnstap.proto.
CREATE OR REPLACE FUNCTION dnstap_type AS n -> transform(toInt32(n), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
    ['AUTH_QUERY', 'AUTH_RESPONSE', 'RESOLVER_QUERY', 'RESOLVER_RESPONSE', 'CLIENT_QUERY', 'CLIENT_RESPONSE',
     'FORWARDER_QUERY', 'FORWARDER_RESPONSE', 'STUB_QUERY', 'STUB_RESPONSE', 'TOOL_QUERY', 'TOOL_RESPONSE',
     'UPDATE_QUERY', 'UPDATE_RESPONSE'], concat('TYPE', toString(n)));
CREATE OR REPLACE FUNCTION dnstap_protocol AS n -> transform(toInt32(n), [1, 2, 3, 4, 5, 6, 7],
    ['UDP', 'TCP', 'DOT', 'DOH', 'DNSCryptUDP', 'DNSCryptTCP', 'DOQ'], concat('PROTOCOL', toString(n)));

-- Time of dnstap, or null if it is missing or not valid.
CREATE OR REPLACE FUNCTION dnstap_time AS (sec, nsec) -> if(
    isNull(sec) OR ifNull(nsec, 0) >= 1000000000 OR sec > 9223372035, NULL,
    fromUnixTimestamp64Nano(toInt64(ifNull(sec, 0) * 1000000000 + ifNull(nsec, 0)), 'UTC'));

-- Address of dnstap. IPv4 is written as IPv6 (::ffff:192.0.2.1), no address as `::`.
CREATE OR REPLACE FUNCTION dnstap_address AS bytes -> multiIf(
    length(ifNull(bytes, '')) = 4, CAST(toFixedString(concat(unhex('00000000000000000000FFFF'), ifNull(bytes, '')), 16), 'IPv6'),
    length(ifNull(bytes, '')) = 16, CAST(toFixedString(ifNull(bytes, ''), 16), 'IPv6'),
    toIPv6('::'));

-- For queries: an address as people write it; its network, /24 for IPv4 and /56 for IPv6; the last two labels of a name.
CREATE OR REPLACE FUNCTION dns_address AS a -> replaceOne(toString(a), '::ffff:', '');
CREATE OR REPLACE FUNCTION dns_prefix AS a -> toIPv6(cutIPv6(a, 9, 1));
CREATE OR REPLACE FUNCTION dns_parent AS name ->
    if(name = '.', '.', extract(name, '((?:[^.\\\\]|\\\\.)*\\.?(?:[^.\\\\]|\\\\.)+\\.)$'));
