//! Function `dns_db_addrdataset` of BIND's libdns (9.20: `dns__db_addrdataset`): each RRset that is put into a cache.
//!
//! ```c
//! isc_result_t dns_db_addrdataset(dns_db_t *db, dns_dbnode_t *node, dns_dbversion_t *version, isc_stdtime_t now,
//!                                 dns_rdataset_t *rdataset, unsigned int options, dns_rdataset_t *addedrdataset);
//! ```
//!
//! BIND 9.16 to 9.20 call it for positive and negative data. It also changes zones; these calls are left out. The RRset
//! comes as a list (`dns_rdatalist_t`). A call is believed only if all magic numbers are right, and if class and type
//! are the same in the RRset, in its list and in each of its records. So a wrong layout gives counts, not data.
//!
//! The owner's name is that of the node. In 9.16 and 9.18 the node is in a tree of trees (`dns_rbtnode_t`), and each
//! tree has some labels of the name. In 9.20 the node begins with the whole name (`qpcnode_t`).

use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use dnstap_ebpf::{
    CacheNotice, Counter, Function, MAX_NAME, NAMES_NARROW, NOTICE_COUNTED, NOTICE_RECORDS,
    RDATASET_NEGATIVE,
};

use super::{
    call::{self, Call, read},
    names,
};
use crate::message::notice::{self, Notice};

/// Magic numbers: `DNSD`, `DNSR`, `RBNO`.
const DATABASE: u32 = 0x444e_5344;
const RDATASET: u32 = 0x444e_5352;
const TREE_NODE: u32 = 0x5242_4e4f;

/// Bit of the attributes of a `dns_db_t`: it is a cache.
const IS_CACHE: u16 = 1;

/// Most trees through which a name is followed.
const TREES: usize = 40;

/// Start of `dns_db_t`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Database {
    magic: u32,
    _before: [u32; 3],
    attributes: u16,
    _class: u16,
    _behind: u32,
}

/// Start of `dns_rdataset_t`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Rdataset {
    magic: u32,
    _before: [u32; 7],
    class: u16,
    record_type: u16,
    ttl: u32,
    trust: u16,
    covers: u16,
    attributes: u32,
    _behind: [u32; 2],
    list: u64,
}

const _: () = assert!(core::mem::offset_of!(Rdataset, class) == 32);
const _: () = assert!(core::mem::offset_of!(Rdataset, list) == 56);

/// Start of `dns_rdatalist_t`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Rdatalist {
    class: u16,
    record_type: u16,
    covers: u16,
    _pad: u16,
    _ttl: u32,
    _pad_behind: u32,
    first: u64,
}

/// `dns_rdata_t` in both layouts.
#[derive(Clone, Copy)]
#[repr(C)]
struct Rdata {
    data: u64,
    /// Length of 32 bits; or class and type.
    second: [u16; 2],
    /// Class and type; or length of 16 bits, and flags.
    third: [u16; 2],
    _fourth: u64,
    /// Next record in the narrow layout.
    narrow_next: u64,
    /// Next record in the wide layout.
    wide_next: u64,
}

/// Start of a `dns_rbtnode_t`.
#[derive(Clone, Copy)]
#[repr(C)]
struct TreeNode {
    magic: u32,
    /// The second byte is the length of the node's labels.
    bits: [u8; 12],
    upper: u64,
}

#[uprobe]
fn dns_db_addrdataset(ctx: ProbeContext) -> u32 {
    if let Some(call) = call::enter() {
        call::leave(call, Function::AddRdataset, try_add(&ctx, call));
    }
    0
}

#[inline(always)]
fn try_add(ctx: &ProbeContext, call: Call) -> Result<(), Counter> {
    let argument = |n| ctx.arg::<u64>(n).ok_or(Counter::ProbeFault);
    let database = argument(0)?;
    // SAFETY: numbers. All other types that are read here have numbers only.
    let known: Database = unsafe { read(database)? };
    if known.magic != DATABASE {
        return Err(Counter::ProbeFault);
    }
    if known.attributes & IS_CACHE == 0 || argument(2)? != 0 {
        return Err(Counter::ProbeUnwanted);
    }
    // SAFETY: as above.
    let rdataset: Rdataset = unsafe { read(argument(4)?)? };
    if rdataset.magic != RDATASET {
        return Err(Counter::ProbeFault);
    }
    let notice = notice::begin(call.thread, size_of::<CacheNotice>() as u64)?;
    let head = notice.head::<CacheNotice>();
    let owner_len = append_owner(notice, argument(1)?, call.probed.names)?;
    let (mut records, mut omitted) = (0, 0);
    if rdataset.attributes & RDATASET_NEGATIVE == 0 {
        (records, omitted) = append_records(notice, &rdataset, call.probed.names)?;
    }
    // SAFETY: the payload begins with the head; all of its members are integers.
    unsafe {
        (&raw mut (*head).database).write(database);
        (&raw mut (*head).options).write(argument(5)? as u32);
        (&raw mut (*head).ttl).write(rdataset.ttl);
        (&raw mut (*head).attributes).write(rdataset.attributes);
        (&raw mut (*head).class).write(rdataset.class);
        (&raw mut (*head).record_type).write(rdataset.record_type);
        (&raw mut (*head).covers).write(rdataset.covers);
        (&raw mut (*head).trust).write(rdataset.trust);
        (&raw mut (*head).owner_len).write(owner_len);
        (&raw mut (*head).records).write(records);
        (&raw mut (*head).omitted).write(omitted);
        (&raw mut (*head).unused).write([0; 3]);
    }
    notice.send(ctx, Function::AddRdataset)
}

/// Appends the name of a node. Returns its length.
#[inline(always)]
fn append_owner(notice: &mut Notice, node: u64, names: u32) -> Result<u16, Counter> {
    // SAFETY: a number.
    let magic: u32 = unsafe { read(node)? };
    if magic == names::NAME {
        let (data, length) = names::find(node, names)?;
        notice.append(data, length)?;
        return Ok(length as u16);
    }
    if magic != TREE_NODE {
        return Err(Counter::ProbeFault);
    }
    let before = notice.len();
    let mut node = node;
    for _ in 0..TREES {
        // SAFETY: as above.
        let tree: TreeNode = unsafe { read(node)? };
        let length = u64::from(tree.bits[1]);
        if tree.magic != TREE_NODE || length == 0 || notice.len() - before > MAX_NAME as u64 {
            return Err(Counter::ProbeFault);
        }
        notice.append(node.wrapping_add(TREE_NODE_NAME), length)?;
        node = tree.upper;
        if node == 0 {
            let length = notice.len() - before;
            if length > MAX_NAME as u64 {
                return Err(Counter::ProbeFault);
            }
            return Ok(length as u16);
        }
    }
    Err(Counter::ProbeFault)
}

/// Offset of the name behind a `dns_rbtnode_t`.
const TREE_NODE_NAME: u64 = 104;

/// Appends the records of an RRset. Returns their number, and that of the records that were left out.
#[inline(always)]
fn append_records(
    notice: &mut Notice,
    rdataset: &Rdataset,
    names: u32,
) -> Result<(u16, u16), Counter> {
    // SAFETY: as above.
    let list: Rdatalist = unsafe { read(rdataset.list)? };
    if list.class != rdataset.class
        || list.record_type != rdataset.record_type
        || list.covers != rdataset.covers
    {
        return Err(Counter::ProbeFault);
    }
    let mut next = list.first;
    let mut records = 0;
    for _ in 0..NOTICE_RECORDS {
        if next == 0 {
            return Ok((records, 0));
        }
        // SAFETY: as above.
        let rdata: Rdata = unsafe { read(next)? };
        let (length, kind, behind) = parts(&rdata, names);
        if kind[0] != rdataset.class || kind[1] != rdataset.record_type || length > 0xffff {
            return Err(Counter::ProbeFault);
        }
        if !notice.has_room(u64::from(length) + 2) {
            break;
        }
        notice.append_u16(length as u16);
        notice.append(rdata.data, u64::from(length))?;
        records += 1;
        next = behind;
    }
    let mut omitted = 0;
    for _ in 0..NOTICE_COUNTED {
        if next == 0 {
            break;
        }
        omitted += 1;
        // SAFETY: as above.
        let rdata: Rdata = unsafe { read(next)? };
        next = parts(&rdata, names).2;
    }
    Ok((records, omitted))
}

/// Returns the length of a record's data, its class and type, and the address of the next record.
#[inline(always)]
fn parts(rdata: &Rdata, names: u32) -> (u32, [u16; 2], u64) {
    if names == NAMES_NARROW {
        (u32::from(rdata.third[0]), rdata.second, rdata.narrow_next)
    } else {
        let length = u32::from(rdata.second[0]) | u32::from(rdata.second[1]) << 16;
        (length, rdata.third, rdata.wide_next)
    }
}
