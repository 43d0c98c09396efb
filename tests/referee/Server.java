import java.net.InetSocketAddress;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.DatagramChannel;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;

/** A DNS server on NIO: datagrams and streams, both families. Started with its port. */
class Server {
    static final int DATAGRAM = 1232;

    public static void main(String[] words) throws Exception {
        int port = Integer.parseInt(words[0]);
        Selector selector = Selector.open();
        for (String address : new String[] {"127.0.0.1", "::1"}) {
            InetSocketAddress here = new InetSocketAddress(address, port);
            DatagramChannel datagrams = DatagramChannel.open();
            datagrams.setOption(StandardSocketOptions.SO_RCVBUF, 4 << 20);
            datagrams.bind(here).configureBlocking(false).register(selector, SelectionKey.OP_READ);
            ServerSocketChannel listener = ServerSocketChannel.open();
            listener.bind(here, 100).configureBlocking(false).register(selector, SelectionKey.OP_ACCEPT);
        }
        ByteBuffer direct = ByteBuffer.allocateDirect(65536);
        while (true) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                try {
                    turn(key, selector, direct);
                } catch (java.io.IOException gone) {
                    key.channel().close();
                }
            }
            selector.selectedKeys().clear();
        }
    }

    static void turn(SelectionKey key, Selector selector, ByteBuffer direct) throws java.io.IOException {
        if (key.channel() instanceof ServerSocketChannel listener) {
            SocketChannel stream = listener.accept();
            if (stream != null) {
                stream.setOption(StandardSocketOptions.TCP_NODELAY, true);
                stream.configureBlocking(false).register(selector, SelectionKey.OP_READ, ByteBuffer.allocate(131072));
            }
        } else if (key.channel() instanceof DatagramChannel datagrams) {
            direct.clear();
            var peer = datagrams.receive(direct);
            if (peer == null) return;
            direct.flip();
            byte[] query = new byte[direct.remaining()];
            direct.get(query);
            byte[] answer = answer(query, DATAGRAM);
            if (answer != null) datagrams.send(ByteBuffer.wrap(answer), peer);
        } else {
            SocketChannel stream = (SocketChannel) key.channel();
            ByteBuffer received = (ByteBuffer) key.attachment();
            boolean end = stream.read(received) < 0;
            received.flip();
            while (received.remaining() >= 2) {
                int size = received.getShort(received.position()) & 0xffff;
                if (received.remaining() < 2 + size) break;
                received.getShort();
                byte[] query = new byte[size];
                received.get(query);
                byte[] answer = answer(query, 65535);
                if (answer == null) continue;
                ByteBuffer length = ByteBuffer.allocate(2).putShort((short) answer.length).flip();
                ByteBuffer[] parts = {length, ByteBuffer.wrap(answer)};
                // This loop ends, because the client continues to read.
                while (parts[1].hasRemaining()) stream.write(parts);
            }
            received.compact();
            if (end) stream.close();
        }
    }

    static byte[] answer(byte[] query, int most) {
        if (query.length < 12 || (query[2] & 0x80) != 0) return null;
        int end = 12;
        while (end < query.length && query[end] != 0) end++;
        end += 5;
        ByteBuffer answer = ByteBuffer.allocate(65535);
        answer.put(query, 0, 2).put((byte) (query[2] & 0x79 | 0x84));
        if (end > query.length) {
            byte[] refused = new byte[12];
            answer.put((byte) 1).flip().get(refused, 0, 4);
            return refused;
        }
        answer.put((byte) 0).putShort((short) 1).putShort((short) 0).putInt(0).put(query, 12, end - 12);
        String label = new String(query, 13, Math.min(query[12], query.length - 13), StandardCharsets.ISO_8859_1);
        if (label.matches("t[0-9]+")) {
            int count = Integer.parseInt(label.substring(1)) / 250 + 1;
            if (count * 253 + end > most) {
                answer.put(2, (byte) (answer.get(2) | 2));
                count = 0;
            }
            answer.putShort(6, (short) count);
            for (int number = 0; number < count; number++) {
                answer.put(new byte[] {(byte) 0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60, 0, (byte) 0xf1, (byte) 0xf0});
                answer.put(String.format("%0240d", number).getBytes(StandardCharsets.ISO_8859_1));
            }
        }
        byte[] bytes = new byte[answer.position()];
        answer.flip().get(bytes);
        return bytes;
    }
}
