"""The responses of the servers in Python: the question, and for a name like t3500 texts of about that many bytes."""


def stream_answer(query):
    if len(query) < 12 or query[2] & 0x80:
        return None
    end = query.find(b"\0", 12) + 5
    if end < 17 or end > len(query):
        return query[:2] + bytes([query[2] & 0x79 | 0x80, 1]) + bytes(8)
    label = query[13:13 + query[12]]
    records = []
    if label[:1] == b"t" and label[1:].isdigit():
        for number in range(int(label[1:]) // 250 + 1):
            records.append(b"\xc0\x0c\0\x10\0\1\0\0\0\x3c\0\xf1\xf0" + b"%0240d" % number)
    header = query[:2] + bytes([query[2] & 0x79 | 0x84, 0, 0, 1]) + len(records).to_bytes(2, "big") + bytes(4)
    return header + query[12:end] + b"".join(records)


def datagram(query):
    answer = stream_answer(query)
    if answer and len(answer) > 1232:
        end = query.find(b"\0", 12) + 5
        return answer[:2] + bytes([answer[2] | 2, 0, 0, 1]) + bytes(6) + query[12:end]
    return answer
