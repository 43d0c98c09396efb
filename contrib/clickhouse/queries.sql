-- The ten questions that operators ask first. Each has the parameters `from` and `to`:
--
--   clickhouse-client --param_from='2026-11-30 12:00:00' --param_to='2026-11-30 13:00:00' --query "..."
--
-- Times are UTC. `to` does not belong to the range. Questions that the summaries answer cost little for any range;
-- those that read dnstap.messages (6, 7, 9, 10) read all messages of the range.

-- 1. How much does each server get? Messages for each second, by type.
SELECT identity, type, sum(messages) AS messages,
    round(messages / dateDiff('second', {from:DateTime('UTC')}, {to:DateTime('UTC')}), 3) AS per_second
FROM dnstap.by_minute
WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')}
GROUP BY identity, type
ORDER BY identity, type;

-- 2. Does it answer well? Response codes of each server, and their part of its responses of this type.
SELECT identity, type, rcode, sum(r.messages) AS messages,
    round(100 * messages / sum(messages) OVER (PARTITION BY identity, type), 3) AS percent
FROM dnstap.by_rcode AS r
WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')}
GROUP BY identity, type, rcode
ORDER BY identity, type, messages DESC, rcode;

-- 3. Which names are asked most?
SELECT qname, sum(n.messages) AS messages
FROM dnstap.by_name AS n
WHERE hour >= toStartOfHour({from:DateTime('UTC')}) AND hour < {to:DateTime('UTC')}
    AND type IN ('CLIENT_QUERY', 'AUTH_QUERY')
GROUP BY qname
ORDER BY messages DESC, qname
LIMIT 20;

-- 4. Who asks most? Networks of clients, with how many different names they ask for (about) and their NXDOMAIN.
SELECT dns_address(prefix) AS network, sumIf(c.messages, endsWith(type, '_QUERY')) AS queries,
    uniqMergeIf(names, endsWith(type, '_QUERY')) AS different_names,
    sumIf(c.nxdomain, endsWith(type, '_RESPONSE')) AS nxdomain
FROM dnstap.by_client AS c
WHERE minute >= toStartOfFiveMinutes({from:DateTime('UTC')}) AND minute < {to:DateTime('UTC')}
GROUP BY network
ORDER BY queries DESC, network
LIMIT 20;

-- 5. How fast are the answers? Milliseconds, half of the responses, 90 and 99 of 100, at most 1 % wrong.
SELECT identity, type, sum(l.responses) AS responses,
    arrayMap(ns -> round(ns / 1e6, 3), quantilesDDMerge(0.01, 0.5, 0.9, 0.99)(quantiles)) AS p50_p90_p99_ms
FROM dnstap.latency AS l
WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')}
GROUP BY identity, type
ORDER BY identity, type;

-- 6. What fails? Names below which clients get SERVFAIL.
SELECT dns_parent(qname) AS parent, count() AS failures, uniqExact(query_address) AS clients, any(qname) AS example
FROM dnstap.messages
WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}
    AND type IN ('CLIENT_RESPONSE', 'AUTH_RESPONSE') AND rcode = 'SERVFAIL'
GROUP BY parent
ORDER BY failures DESC, parent
LIMIT 20;

-- 7. Is somebody asking for random names? Parents with many different names that do not exist.
SELECT dns_parent(qname) AS parent, uniqExact(qname) AS different_names, count() AS responses,
    uniqExact(dns_prefix(query_address)) AS networks
FROM dnstap.messages
WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}
    AND type IN ('CLIENT_RESPONSE', 'AUTH_RESPONSE') AND rcode = 'NXDOMAIN'
GROUP BY parent
ORDER BY different_names DESC, parent
LIMIT 20;

-- 8. How is it asked? Question types and transports, and truncated responses.
SELECT qtype, socket_protocol, sumIf(m.messages, endsWith(type, '_QUERY')) AS queries,
    sumIf(m.truncated, endsWith(type, '_RESPONSE')) AS truncated_responses
FROM dnstap.by_minute AS m
WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')}
    AND type IN ('CLIENT_QUERY', 'CLIENT_RESPONSE', 'AUTH_QUERY', 'AUTH_RESPONSE')
GROUP BY qtype, socket_protocol
HAVING queries > 0 OR truncated_responses > 0
ORDER BY queries DESC, qtype, socket_protocol;

-- 9. Is it used to attack others? Networks to which far more bytes go than come from it, over UDP.
SELECT dns_address(dns_prefix(query_address)) AS network,
    sumIf(size, endsWith(type, '_QUERY')) AS bytes_in, sumIf(size, endsWith(type, '_RESPONSE')) AS bytes_out,
    round(bytes_out / bytes_in, 2) AS factor
FROM dnstap.messages
WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}
    AND type IN ('CLIENT_QUERY', 'CLIENT_RESPONSE', 'AUTH_QUERY', 'AUTH_RESPONSE') AND socket_protocol = 'UDP'
GROUP BY network
HAVING bytes_in > 0
ORDER BY factor DESC, network
LIMIT 20;

-- 10. Which other servers let this one wait? Queries without a response, and the slowest responses.
SELECT dns_address(response_address) AS server, countIf(endsWith(type, '_QUERY')) AS queries,
    greatest(0, toInt64(queries) - toInt64(countIf(endsWith(type, '_RESPONSE')))) AS unanswered,
    round(max(ifNull(latency_ns, 0)) / 1e6, 3) AS slowest_ms
FROM dnstap.messages
WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}
    AND (startsWith(type, 'RESOLVER_') OR startsWith(type, 'FORWARDER_'))
GROUP BY server
ORDER BY unanswered DESC, slowest_ms DESC, server
LIMIT 20;
