//! The columns: names, types, values and encodings. `docs/parquet.md` describes them for users.
//!
//! Names are those of ENTRADA2 where it has them, else those of our JSON. Rows of a group are sorted by the reversed
//! name, then by time; both are columns, so the file can declare it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use dnstap_core::model::long_name;
use dnstap_proto::{HttpProtocol, SocketFamily, SocketProtocol, message::Type as Kind, policy};
use foldhash::fast::RandomState;
use parquet::{
    basic::{
        Compression, Encoding, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel,
    },
    data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int32Type, Int64Type},
    errors::Result,
    file::{
        metadata::SortingColumn,
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr},
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::types::{ColumnPath, Type, TypePtr},
};

use super::{
    Directory, Group, HEAD,
    exchange::{Edns, Exchange, Half, Header},
};
use crate::formats::render::{extra, socket};

/// A column.
struct Column {
    name: &'static str,
    value: Value,
    encoding: Code,
}

/// How a value is found in a row.
enum Value {
    Bool(fn(&Exchange) -> Option<bool>),
    Int(fn(&Exchange) -> Option<i32>),
    Long(fn(&Exchange) -> Option<i64>),
    /// Nanoseconds since 1970.
    Time(fn(&Exchange) -> Option<i64>),
    Text(fn(&Exchange) -> Option<Bytes>),
    Address(fn(&Exchange) -> Option<IpAddr>),
    /// What follows from the name in question.
    Name(fn(&Name) -> Option<Bytes>),
    List(fn(&Exchange) -> Option<&[u16]>),
}

/// How values are encoded before they are compressed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Code {
    /// By a dictionary, for few values.
    Dictionary,
    /// As they are, for values that hardly come again.
    Plain,
    /// By their differences.
    Delta,
}

const fn column(name: &'static str, value: Value) -> Column {
    Column {
        name,
        value,
        encoding: Code::Dictionary,
    }
}

const fn coded(name: &'static str, encoding: Code, value: Value) -> Column {
    Column {
        name,
        value,
        encoding,
    }
}

/// Name of the column by which rows are found.
const NAME: &str = "dns_qname";

/// Columns by which rows are sorted.
const SORTED: [&str; 2] = ["dns_qname_reversed", "time"];

/// Rows for which the filter of names is made at first. It is folded to what the names need.
const FILTERED: u64 = super::ROWS as u64;

/// All columns, in the order of the file.
static COLUMNS: [Column; 49] = [
    coded("time", Code::Delta, Value::Time(Exchange::time)),
    coded("latency_ns", Code::Plain, Value::Long(Exchange::latency)),
    column(
        "dns_proc_time",
        Value::Int(|row| i32::try_from(row.latency()? / 1_000_000).ok()),
    ),
    column("server", Value::Text(|row| text(row.identity.as_deref()))),
    column("version", Value::Text(|row| text(row.version.as_deref()))),
    column(
        "dnstap_type",
        Value::Text(|row| {
            row.kind
                .map(|kind| Bytes::from_static(family(kind).as_bytes()))
        }),
    ),
    column(
        "ip_version",
        Value::Int(|row| match SocketFamily::try_from(row.family?).ok()? {
            SocketFamily::Inet => Some(4),
            SocketFamily::Inet6 => Some(6),
        }),
    ),
    column(
        "prot",
        Value::Int(|row| {
            Some(match SocketProtocol::try_from(row.protocol?).ok()? {
                SocketProtocol::Udp | SocketProtocol::DnsCryptUdp | SocketProtocol::Doq => 17,
                SocketProtocol::Tcp
                | SocketProtocol::Dot
                | SocketProtocol::Doh
                | SocketProtocol::DnsCryptTcp => 6,
            })
        }),
    ),
    column(
        "socket_protocol",
        Value::Text(|row| word(row.protocol, "PROTOCOL", socket::protocol_name)),
    ),
    column(
        "http_protocol",
        Value::Text(|row| {
            word(row.http, "PROTOCOL", |http: HttpProtocol| {
                http.as_str_name()
            })
        }),
    ),
    column("ip_src", Value::Address(|row| row.ends[0].address)),
    coded(
        "prot_src_port",
        Code::Plain,
        Value::Int(|row| int(row.ends[0].port?)),
    ),
    column("ip_dst", Value::Address(|row| row.ends[1].address)),
    column("prot_dst_port", Value::Int(|row| int(row.ends[1].port?))),
    coded(
        "dns_id",
        Code::Plain,
        Value::Int(|row| int(row.asked()?.id)),
    ),
    column(
        "dns_qname_reversed",
        Value::Name(|name| Some(name.reversed.clone())),
    ),
    column(
        NAME,
        Value::Text(|row| Some(row.question.as_ref()?.name.clone())),
    ),
    column(
        "dns_qname_full",
        Value::Text(|row| row.question.as_ref()?.exact.clone()),
    ),
    column("dns_domainname", Value::Name(|name| name.domain.clone())),
    column("dns_tld", Value::Name(|name| name.tld.clone())),
    column(
        "dns_labels",
        Value::Int(|row| int(row.question.as_ref()?.labels)),
    ),
    column(
        "dns_qtype",
        Value::Int(|row| int(row.question.as_ref()?.kind)),
    ),
    column(
        "dns_qclass",
        Value::Int(|row| int(row.question.as_ref()?.class)),
    ),
    column("dns_opcode", Value::Int(|row| int(row.asked()?.opcode))),
    column("dns_rcode", Value::Int(|row| int(row.answered()?.rcode))),
    column("dns_aa", Value::Bool(|row| flag(row.answered(), 0x0400))),
    column("dns_tc", Value::Bool(|row| flag(row.answered(), 0x0200))),
    column("dns_rd", Value::Bool(|row| flag(row.asked(), 0x0100))),
    column("dns_ra", Value::Bool(|row| flag(row.answered(), 0x0080))),
    column("dns_ad", Value::Bool(|row| flag(row.answered(), 0x0020))),
    column("dns_cd", Value::Bool(|row| flag(row.asked(), 0x0010))),
    column(
        "dns_qdcount",
        Value::Int(|row| int(row.answered().or(row.asked())?.counts[0])),
    ),
    column(
        "dns_ancount",
        Value::Int(|row| int(row.answered()?.counts[1])),
    ),
    column(
        "dns_nscount",
        Value::Int(|row| int(row.answered()?.counts[2])),
    ),
    column(
        "dns_arcount",
        Value::Int(|row| int(row.answered()?.counts[3])),
    ),
    column("dns_req_len", Value::Int(|row| length(row.query.as_ref()))),
    column(
        "dns_res_len",
        Value::Int(|row| length(row.response.as_ref())),
    ),
    column(
        "edns_udp",
        Value::Int(|row| int(edns(row.query.as_ref())?.udp_size)),
    ),
    column(
        "edns_version",
        Value::Int(|row| int(edns(row.query.as_ref())?.version)),
    ),
    column(
        "edns_do",
        Value::Bool(|row| Some(edns(row.query.as_ref())?.dnssec_ok)),
    ),
    column(
        "edns_options",
        Value::List(|row| some(&edns(row.query.as_ref())?.options)),
    ),
    column(
        "edns_ecs",
        Value::Text(|row| {
            let subnet = edns(row.query.as_ref())?.subnet.as_ref()?;
            Some(Bytes::copy_from_slice(subnet.as_bytes()))
        }),
    ),
    column(
        "edns_ext_error",
        Value::List(|row| some(&edns(row.response.as_ref())?.errors)),
    ),
    column(
        "query_zone",
        Value::Text(|row| Some(Bytes::copy_from_slice(row.zone.as_ref()?.as_bytes()))),
    ),
    column(
        "policy_type",
        Value::Text(|row| {
            Some(Bytes::copy_from_slice(
                row.policy.as_ref()?.r#type.as_ref()?.as_bytes(),
            ))
        }),
    ),
    column(
        "policy_action",
        Value::Text(|row| {
            word(
                row.policy.as_ref()?.action,
                "ACTION",
                |action: policy::Action| action.as_str_name(),
            )
        }),
    ),
    column(
        "policy_match",
        Value::Text(|row| {
            word(
                row.policy.as_ref()?.r#match,
                "MATCH",
                |part: policy::Match| part.as_str_name(),
            )
        }),
    ),
    column(
        "policy_rule",
        Value::Text(|row| text(row.policy.as_ref()?.rule.as_deref())),
    ),
    column(
        "policy_value",
        Value::Text(|row| text(row.policy.as_ref()?.value.as_deref())),
    ),
];

/// Schema and properties of all files.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    schema: TypePtr,
    properties: WriterPropertiesPtr,
}

impl Layout {
    /// Returns the layout, which is made once.
    pub(super) fn new() -> Self {
        static LAYOUT: LazyLock<Layout> = LazyLock::new(|| {
            Layout::made().unwrap_or_else(|error| unreachable!("a fixed schema: {error}"))
        });
        LAYOUT.clone()
    }

    fn made() -> Result<Self> {
        let fields = COLUMNS.iter().map(Column::field);
        let schema = Type::group_type_builder("dns")
            .with_fields(fields.collect::<Result<_>>()?)
            .build()?;
        let sorted = SORTED.iter().filter_map(|name| place(name));
        let sorted = sorted.map(|place| SortingColumn {
            column_idx: i32::try_from(place).unwrap_or_default(),
            descending: false,
            nulls_first: true,
        });
        let name = || ColumnPath::from(NAME);
        let mut properties = WriterProperties::builder()
            .set_created_by(concat!("dnstap-agent version ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
            // Statistics of each row group. Those of pages are larger than what they would save.
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .set_sorting_columns(Some(sorted.collect()))
            .set_column_bloom_filter_enabled(name(), true)
            .set_column_bloom_filter_fpp(name(), 0.01)
            .set_column_bloom_filter_max_ndv(name(), FILTERED);
        for column in &COLUMNS {
            let path = || ColumnPath::from(column.name);
            if column.encoding != Code::Dictionary {
                properties = properties.set_column_dictionary_enabled(path(), false);
            }
            if column.encoding == Code::Delta {
                properties = properties.set_column_encoding(path(), Encoding::DELTA_BINARY_PACKED);
            }
        }
        Ok(Self {
            schema: Arc::new(schema),
            properties: Arc::new(properties.build()),
        })
    }

    pub(super) fn directory(&self) -> Directory {
        Directory::new(&self.schema, &self.properties)
    }

    /// Encodes rows as a row group.
    pub(super) fn encode(&self, rows: &[Exchange]) -> Result<Group> {
        let names = Names::of(rows);
        let rows = names.sorted(rows);
        let schema = Arc::clone(&self.schema);
        let properties = Arc::clone(&self.properties);
        let mut file = SerializedFileWriter::new(Vec::new(), schema, properties)?;
        let mut group = file.next_row_group()?;
        for column in &COLUMNS {
            if let Some(mut writer) = group.next_column()? {
                column.write(&rows, &names, &mut writer)?;
                writer.close()?;
            }
        }
        group.close()?;
        // Unlike what `close` returns, this says where the filter is.
        let metadata = file.flushed_row_groups().last().cloned();
        let metadata = metadata.unwrap_or_else(|| unreachable!("the group is closed"));
        let end = file.bytes_written();
        let mut bytes = file.into_inner()?;
        bytes.truncate(end);
        bytes.drain(..HEAD.len());
        Ok(Group { bytes, metadata })
    }
}

/// Returns the place of a column in the file.
pub(super) fn place(name: &str) -> Option<usize> {
    COLUMNS.iter().position(|column| column.name == name)
}

impl Column {
    fn field(&self) -> Result<TypePtr> {
        let primitive = |physical| {
            Type::primitive_type_builder(self.name, physical).with_repetition(Repetition::OPTIONAL)
        };
        let field = match self.value {
            Value::Bool(_) => primitive(Physical::BOOLEAN).build()?,
            Value::Int(_) => primitive(Physical::INT32).build()?,
            Value::Long(_) => primitive(Physical::INT64).build()?,
            Value::Time(_) => primitive(Physical::INT64)
                .with_logical_type(Some(LogicalType::timestamp(true, TimeUnit::NANOS)))
                .build()?,
            Value::Text(_) | Value::Address(_) | Value::Name(_) => primitive(Physical::BYTE_ARRAY)
                .with_logical_type(Some(LogicalType::String))
                .build()?,
            Value::List(_) => list(self.name)?,
        };
        Ok(Arc::new(field))
    }

    fn write(
        &self,
        rows: &[Row<'_>],
        names: &Names,
        writer: &mut SerializedColumnWriter<'_>,
    ) -> Result<()> {
        let exchanges = rows.iter().map(|row| row.exchange);
        match self.value {
            Value::Bool(of) => values::<BoolType>(exchanges.map(of), writer),
            Value::Int(of) => values::<Int32Type>(exchanges.map(of), writer),
            Value::Long(of) | Value::Time(of) => values::<Int64Type>(exchanges.map(of), writer),
            Value::Text(of) => texts(exchanges.map(of), writer),
            Value::Address(of) => {
                let mut known = HashMap::<_, Bytes, RandomState>::default();
                let addresses = exchanges.map(of).map(|address| {
                    let text = known.entry(address?);
                    Some(
                        text.or_insert_with_key(|address| address.to_string().into())
                            .clone(),
                    )
                });
                texts(addresses, writer)
            }
            Value::Name(of) => {
                let names = rows.iter().map(|row| of(names.all.get(row.name?)?));
                texts(names, writer)
            }
            Value::List(of) => lists(exchanges.map(of), writer),
        }
    }
}

/// Returns a field with a list of numbers, in the form of LIST in Parquet's `LogicalTypes.md`.
fn list(name: &str) -> Result<Type> {
    let element = Type::primitive_type_builder("element", Physical::INT32)
        .with_repetition(Repetition::REQUIRED)
        .build()?;
    let list = Type::group_type_builder("list")
        .with_repetition(Repetition::REPEATED)
        .with_fields(vec![Arc::new(element)])
        .build()?;
    Type::group_type_builder(name)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(Some(LogicalType::List))
        .with_fields(vec![Arc::new(list)])
        .build()
}

fn values<T: DataType>(
    rows: impl Iterator<Item = Option<T::T>>,
    writer: &mut SerializedColumnWriter<'_>,
) -> Result<()> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    for value in rows {
        levels.push(i16::from(value.is_some()));
        values.extend(value);
    }
    writer
        .typed::<T>()
        .write_batch(&values, Some(&levels), None)?;
    Ok(())
}

fn texts(
    texts: impl Iterator<Item = Option<Bytes>>,
    writer: &mut SerializedColumnWriter<'_>,
) -> Result<()> {
    values::<ByteArrayType>(texts.map(|text| text.map(ByteArray::from)), writer)
}

fn lists<'a>(
    rows: impl Iterator<Item = Option<&'a [u16]>>,
    writer: &mut SerializedColumnWriter<'_>,
) -> Result<()> {
    let (mut values, mut levels, mut repeats) = (Vec::new(), Vec::new(), Vec::new());
    for list in rows {
        let list = list.unwrap_or_default();
        if list.is_empty() {
            levels.push(0);
            repeats.push(0);
        }
        for (nth, value) in list.iter().enumerate() {
            values.push(i32::from(*value));
            levels.push(2);
            repeats.push(i16::from(nth > 0));
        }
    }
    let writer = writer.typed::<Int32Type>();
    writer.write_batch(&values, Some(&levels), Some(&repeats))?;
    Ok(())
}

/// A row, and the place of its name in [`Names::all`].
struct Row<'a> {
    exchange: &'a Exchange,
    name: Option<usize>,
}

/// Names of a row group. Most come again, and what follows from a name is found once.
struct Names {
    places: HashMap<Bytes, usize, RandomState>,
    /// All names, in the order of the reversed name.
    all: Vec<Name>,
}

/// What follows from a name.
struct Name {
    text: Bytes,
    /// The labels from the last to the first.
    reversed: Bytes,
    domain: Option<Bytes>,
    tld: Option<Bytes>,
}

impl Names {
    fn of(rows: &[Exchange]) -> Self {
        let mut places = HashMap::<_, _, RandomState>::default();
        for question in rows.iter().filter_map(|row| row.question.as_ref()) {
            places.entry(question.name.clone()).or_default();
        }
        let mut all: Vec<_> = places.keys().map(Name::of).collect();
        all.sort_unstable_by(|one, other| one.reversed.cmp(&other.reversed));
        for (place, name) in all.iter().enumerate() {
            places.insert(name.text.clone(), place);
        }
        Self { places, all }
    }

    /// Returns the rows in the order of the reversed name, then of time.
    fn sorted<'a>(&self, rows: &'a [Exchange]) -> Vec<Row<'a>> {
        let row = |exchange: &'a Exchange| {
            let question = exchange.question.as_ref();
            let name = question.and_then(|question| self.places.get(&question.name).copied());
            Row { exchange, name }
        };
        let mut sorted: Vec<_> = rows.iter().map(row).collect();
        sorted.sort_by_key(|row| (row.name, row.exchange.time()));
        sorted
    }
}

impl Name {
    fn of(name: &Bytes) -> Self {
        let mut labels: Vec<_> = labels(name).collect();
        let tld = labels.last().filter(|label| !label.is_empty());
        let tld = tld.map(|label| name.slice_ref(label));
        labels.reverse();
        let domain = psl::domain(name).map(|domain| name.slice_ref(domain.as_bytes()));
        Self {
            text: name.clone(),
            reversed: if tld.is_some() {
                labels.join(&b'.').into()
            } else {
                name.clone() // the root
            },
            domain,
            tld,
        }
    }
}

/// Splits a name at its dots. One behind a backslash is part of a label (RFC 1035 section 5.1).
fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut is_escaped = false;
    name.split(move |byte| {
        let is_dot = *byte == b'.' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_dot
    })
}

fn int(number: impl TryInto<i32>) -> Option<i32> {
    number.try_into().ok()
}

fn flag(header: Option<&Header>, bit: u16) -> Option<bool> {
    header.map(|header| header.flags & bit != 0)
}

fn edns(half: Option<&Half>) -> Option<&Edns> {
    half?.edns.as_deref()
}

fn length(half: Option<&Half>) -> Option<i32> {
    int(half?.length)
}

fn some(list: &[u16]) -> Option<&[u16]> {
    (!list.is_empty()).then_some(list)
}

/// Returns a field of any bytes as text, as JSON shows it.
fn text(bytes: Option<&[u8]>) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(extra::text(bytes?).as_bytes()))
}

/// Returns the name of an enum's value, or its number behind a prefix, as in JSON.
fn word<E: TryFrom<i32>>(
    number: Option<i32>,
    prefix: &str,
    name: impl FnOnce(E) -> &'static str,
) -> Option<Bytes> {
    number.map(|number| match E::try_from(number) {
        Ok(value) => Bytes::from_static(name(value).as_bytes()),
        Err(_) => format!("{prefix}{number}").into(),
    })
}

/// Returns what a query and its response have in common in the names of their types, such as `CLIENT`.
fn family(kind: Kind) -> &'static str {
    let name = long_name(kind);
    name.split_once('_').map_or(name, |(family, _)| family)
}
