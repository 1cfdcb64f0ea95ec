import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The keyed count on Kafka Streams: decode an order, count it under its user, write the new count.
 *
 * <p>Exactly once (v2), RocksDB with a changelog, one stream thread.  It is a processor on a store with a cache, and not
 * {@code count().toStream()}: the cache then holds back changelog records until the commit, as ours does, while every
 * order still gives an output; under the DSL a cache would drop outputs, and no cache would write a changelog record for
 * each order.  The last line on stdout is a report as the Python contenders give it; CPU is that of the process, JIT and
 * garbage collection included, from the first record to the end of close(), which commits.
 *
 * <p>Arguments: bootstrap, application id, input, output, messages (0: serve until stopped), commit interval in ms, state
 * folder, standbys, session time-out in ms.
 */
public final class KeyedCount {
    private static final OperatingSystemMXBean PROCESS =
            (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    @JsonIgnoreProperties(ignoreUnknown = true)
    public static final class Order {
        public long id;
        public String user;
        public String item;
        public int quantity;
        public double price;
        public long time;
        public String note;
        public List<Line> lines;
    }

    public static final class Line {
        public String sku;
        public String name;
        public int quantity;
        public double price;
    }

    /** CPU and wall time in nanoseconds at one moment. */
    private record Moment(long cpu, long wall) {
        static Moment now() {
            return new Moment(PROCESS.getProcessCpuTime(), System.nanoTime());
        }
    }

    /** Written by the stream thread; read after it has ended. */
    private static final class Progress {
        long seen;
        Moment first;
        Moment third;
    }

    private static final class Count implements Processor<byte[], byte[], byte[], byte[]> {
        private final ObjectReader reader = new ObjectMapper().readerFor(Order.class);
        private final ObjectWriter writer = new ObjectMapper().writerFor(Long.class);
        private final Progress progress;
        private final long messages;
        private final CountDownLatch done;
        private ProcessorContext<byte[], byte[]> context;
        private KeyValueStore<String, Long> store;

        Count(Progress progress, long messages, CountDownLatch done) {
            this.progress = progress;
            this.messages = messages;
            this.done = done;
        }

        @Override
        public void init(ProcessorContext<byte[], byte[]> context) {
            this.context = context;
            this.store = context.getStateStore("orders-by-user");
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            if (progress.seen == 0) {
                progress.first = Moment.now();
            }
            try {
                Order order = reader.readValue(record.value());
                Long before = store.get(order.user);
                Long count = before == null ? 1L : before + 1;
                store.put(order.user, count);
                context.forward(record.withValue(writer.writeValueAsBytes(count)));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
            progress.seen++;
            if (progress.seen == messages / 3) {
                progress.third = Moment.now();
            }
            if (progress.seen == messages) {
                done.countDown();
            }
        }
    }

    public static void main(String[] arguments) throws InterruptedException {
        long messages = Long.parseLong(arguments[4]);
        Properties settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments[1]);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, arguments[5]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[6]);
        settings.put(StreamsConfig.NUM_STANDBY_REPLICAS_CONFIG, arguments[7]);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), arguments[8]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");

        Progress progress = new Progress();
        CountDownLatch done = new CountDownLatch(1);
        AtomicBoolean failed = new AtomicBoolean();
        Topology topology = new Topology();
        topology.addSource("orders", Serdes.ByteArray().deserializer(), Serdes.ByteArray().deserializer(), arguments[2]);
        topology.addProcessor("count", () -> new Count(progress, messages, done), "orders");
        topology.addStateStore(
                Stores.keyValueStoreBuilder(
                                Stores.persistentKeyValueStore("orders-by-user"), Serdes.String(), Serdes.Long())
                        .withCachingEnabled(),
                "count");
        topology.addSink(
                "counts", arguments[3], Serdes.ByteArray().serializer(), Serdes.ByteArray().serializer(), "count");

        KafkaStreams streams = new KafkaStreams(topology, settings);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            failed.set(true);
            done.countDown();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        if (messages == 0) {
            Runtime.getRuntime().addShutdownHook(new Thread(done::countDown));
        }
        streams.start();
        done.await();
        streams.close();
        if (failed.get()) {
            System.exit(1);
        }
        if (messages == 0) {
            return;
        }
        Moment first = progress.first;
        Moment third = progress.third;
        Moment last = Moment.now();
        long rest = messages - messages / 3;
        System.out.printf(
                "{\"cpu_ns\": %d, \"wall_ns\": %d, \"messages\": %d, \"warm_cpu_ns\": %d, \"warm_messages\": %d}%n",
                last.cpu - first.cpu, last.wall - first.wall, messages, last.cpu - third.cpu, rest);
    }
}
