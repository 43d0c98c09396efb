//! Finds a function of BIND's libraries in a running process.
//!
//! The library is found in the process's mappings (`/proc/PID/maps`) and opened through them
//! (`/proc/PID/map_files`, proc(5)). So it is the file that the process runs, in any mount
//! namespace, even if the file was deleted or replaced since. The function is searched in the
//! dynamic symbols, then in the other symbols of the file. Libraries of packages have dynamic
//! symbols only.

use std::{
    collections::HashSet,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use dnstap_ebpf::{
    NAMES_NARROW, NAMES_UNKNOWN, NAMES_WIDE, TRANSPORT_IS_BOOL, TRANSPORT_IS_NUMBER,
};
use object::{
    Endianness, Object as _, ObjectSegment as _, ReadCache, ReadRef,
    elf::{FileHeader64, SHT_DYNSYM, SHT_SYMTAB},
    read::elf::{FileHeader as _, SectionHeader as _, Sym as _},
};
use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process};

use super::place::LOOKED_AT;

/// Most files of a process that are examined.
const FILES: usize = 4;

/// Size of the largest file that is examined, in bytes. It is read into memory for a moment. BIND's
/// libraries have some megabytes.
const LARGEST: u64 = 64 << 20;

/// Symbol of a pointer to the root name. Every libdns exports it.
const ROOT_NAME: &str = "dns_rootname";

/// Magic number at the start of a `dns_name_t` (`DNSn`, lib/dns/include/dns/name.h).
const NAME_MAGIC: [u8; 4] = 0x444e_536e_u32.to_le_bytes();

/// Symbol of a pointer to the name `*`. Every libdns exports it.
const WILDCARD_NAME: &str = "dns_wildcardname";

/// Description of a function that is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// File name of the library, up to its version. The executable is examined, too, because it may contain the same
    /// functions.
    pub(super) library: &'static str,
    /// Names of the function in different versions of BIND.
    pub(super) functions: &'static [&'static str],
    /// Reason for which a BIND may lack it.
    pub(super) may_lack: &'static str,
}

impl Wanted {
    fn is_in(self, file: &str) -> bool {
        let version = file.strip_prefix(self.library);
        version.is_some_and(|version| version.starts_with(['-', '.']))
    }

    /// Returns whether the library is the one that defines names.
    fn has_names(self) -> bool {
        self.library == LIBDNS
    }
}

/// BIND's library with names, views and caches.
pub(super) const LIBDNS: &str = "libdns";
/// BIND's library with the log.
pub(super) const LIBISC: &str = "libisc";

/// A function in a file that a process has mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// Path of the file, through the mapping.
    pub(super) path: PathBuf,
    /// File name at the time of the mapping, without folders.
    pub(super) library: String,
    /// Offset of the function in the file, in bytes.
    pub(super) offset: u64,
    /// Name of the function in this version.
    pub(super) name: &'static str,
    /// First bytes of the function.
    pub(super) code: Vec<u8>,
    /// Layout of names: a `NAMES_*` of the ABI.
    pub(super) names: u32,
    /// How this BIND tells its transports: a `TRANSPORT_IS_*` of the ABI; 0: it has neither TLS nor HTTPS, or the function
    /// is not of libdns.
    pub(super) transport: u32,
}

/// Functions that came with TLS (9.18), and with the number of the transport (9.20).
const WITH_TLS: &str = "dns_transport_new";
const WITH_NUMBER: &str = "dns__db_addrdataset";

/// Reason for which a function cannot be probed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Missing {
    /// The process has not loaded the library, maybe not yet.
    #[error("it has not loaded BIND's {0}")]
    Library(&'static str),
    /// Any other reason, such as a library that cannot be read.
    #[error("{0:#}")]
    Other(anyhow::Error),
}

/// Finds a function of BIND's libraries in process `pid`.
pub(super) fn find(pid: u32, wanted: Wanted) -> Result<Function, Missing> {
    let files = candidates(pid, |file| wanted.is_in(file)).map_err(Missing::Other)?;
    let mut found = Err(Missing::Library(wanted.library));
    for (path, library) in files {
        match look(&path, wanted) {
            Ok(Some(Place {
                name,
                offset,
                code,
                names,
                transport,
            })) => {
                return Ok(Function {
                    path,
                    library,
                    offset,
                    name,
                    code,
                    names,
                    transport,
                });
            }
            Ok(None) => {}
            // Errors about the executable are ignored: that of another server may exceed the size
            // limit.
            Err(_) if !wanted.is_in(&library) => {}
            Err(error) => {
                let error = error.context(format!("cannot use {library} of process {pid}"));
                found = Err(Missing::Other(error));
            }
        }
    }
    found
}

/// Returns the file of this program and the offset of its entry point. The instruction there is not
/// executed again.
pub(super) fn own_entry() -> Result<(PathBuf, u64)> {
    for (path, _) in candidates(std::process::id(), |_| false)? {
        let file = File::open(&path).with_context(|| {
            format!(
                "cannot open {}, which takes CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN",
                path.display()
            )
        })?;
        // The size of the program's own file is not limited. A build with all symbols is large.
        let cache = ReadCache::new(file);
        let file = object::File::parse(&cache).context("it is no ELF file")?;
        if let Some(offset) = offset_of(&file, file.entry()) {
            return Ok((path, offset));
        }
    }
    Err(anyhow!("this program does not know where it began"))
}

/// Returns the files with code that may be the library, each with its name: first those for whose
/// name `is_library` returns true, then the executable.
fn candidates(pid: u32, is_library: impl Fn(&str) -> bool) -> Result<Vec<(PathBuf, String)>> {
    let what = || format!("cannot read the mappings of process {pid}");
    let process = Process::new(i32::try_from(pid)?).with_context(what)?;
    let executable = process.exe().unwrap_or_default();
    let is_code = |map: &MemoryMap| {
        map.perms
            .contains(MMPermissions::EXECUTE | MMPermissions::READ)
            && !map.perms.contains(MMPermissions::WRITE)
    };
    let mut libraries = Vec::new();
    let mut others = Vec::new();
    let mut seen = HashSet::new();
    for map in process.maps().with_context(what)? {
        let MMapPath::Path(path) = &map.pathname else {
            continue;
        };
        let name = file_name(path);
        let (start, end) = map.address;
        let place = (
            PathBuf::from(format!("/proc/{pid}/map_files/{start:x}-{end:x}")),
            name.clone(),
        );
        if !is_code(&map) || !seen.insert((map.dev, map.inode)) {
        } else if is_library(&name) {
            libraries.push(place);
        } else if *path == executable {
            others.push(place);
        }
    }
    libraries.append(&mut others);
    libraries.truncate(FILES);
    Ok(libraries)
}

/// Returns the name of a mapped file, without the suffix that the kernel adds to deleted files.
fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned()
}

/// A function in an ELF file.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    name: &'static str,
    offset: u64,
    code: Vec<u8>,
    names: u32,
    transport: u32,
}

/// Returns the place of a function in an ELF file; `None` if the file is not the library.
fn look(path: &Path, wanted: Wanted) -> Result<Option<Place>> {
    look_into(&read(path)?, wanted)
}

/// Reads a mapped file. Fails if the file is too large: any user can run a program with the name of
/// a server, and with a file of any size and content.
fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).with_context(|| {
        format!(
            "cannot open {}, which takes CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN",
            path.display()
        )
    })?;
    let mut bytes = Vec::new();
    // The file may grow while it is read.
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    anyhow::ensure!(
        bytes.len() as u64 <= LARGEST,
        "it has more than {LARGEST} bytes, which no library of BIND has"
    );
    Ok(bytes)
}

fn look_into(data: &[u8], wanted: Wanted) -> Result<Option<Place>> {
    let file = object::File::parse(data).context("it is no ELF file")?;
    let fixed = [ROOT_NAME, WILDCARD_NAME, LOG_CONTEXT, WITH_TLS, WITH_NUMBER];
    let searched: Vec<&str> = fixed.iter().chain(wanted.functions).copied().collect();
    let at = addresses(data, &searched).context("its symbols cannot be read")?;
    let symbol = |name: &str| at[searched.iter().position(|one| *one == name)?];
    let function = |name: &&'static str| Some((*name, symbol(name)?));
    let found = wanted.functions.iter().find_map(function);
    let mut names = NAMES_UNKNOWN;
    if wanted.has_names() {
        let Some(root) = symbol(ROOT_NAME) else {
            return Ok(None);
        };
        let root = pointer(&file, root).and_then(|name| bytes(&file, name, NAME_MAGIC.len()));
        if root.is_none_or(|magic| magic != NAME_MAGIC) {
            return Err(anyhow!("its names have another layout than BIND's"));
        }
        let wildcard = symbol(WILDCARD_NAME).and_then(|wildcard| pointer(&file, wildcard));
        names = wildcard
            .and_then(|name| bytes(&file, name, NAME_HEAD))
            .map_or(NAMES_UNKNOWN, layout_of);
    } else if found.is_none() && symbol(LOG_CONTEXT).is_none() {
        return Ok(None);
    }
    let Some((name, address)) = found else {
        let name = wanted.functions.first().unwrap_or(&"?");
        return Err(anyhow!("it has no function {name}: {}", wanted.may_lack));
    };
    let transport = match (symbol(WITH_TLS), symbol(WITH_NUMBER)) {
        (None, _) => 0,
        (_, None) => TRANSPORT_IS_BOOL,
        _ => TRANSPORT_IS_NUMBER,
    };
    let offset = offset_of(&file, address);
    let code = bytes(&file, address, LOOKED_AT);
    match (offset, code) {
        (Some(offset), Some(code)) => Ok(Some(Place {
            name,
            offset,
            code: code.to_vec(),
            names,
            transport,
        })),
        _ => Err(anyhow!("its function {name} is in no part of the file")),
    }
}

/// Returns the addresses of the defined symbols with these names, in the dynamic symbols or, if one
/// is not there, in the others. Each symbol is looked at once, and its name is compared in place, so
/// the time is bounded by the size of the file, whatever is in it.
fn addresses(data: &[u8], names: &[&str]) -> Result<Vec<Option<u64>>> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let mut found = vec![None; names.len()];
    for kind in [SHT_DYNSYM, SHT_SYMTAB] {
        let symbols = sections.symbols(endian, data, kind)?;
        if symbols.is_empty() {
            continue;
        }
        let strings = sections.section(symbols.string_section())?;
        let strings = strings.data(endian, data)?;
        for symbol in symbols.iter().filter(|symbol| !symbol.is_undefined(endian)) {
            let start = usize::try_from(symbol.st_name(endian))?;
            let rest = strings.get(start..).unwrap_or_default();
            let is =
                |name: &str| rest.starts_with(name.as_bytes()) && rest.get(name.len()) == Some(&0);
            if let Some(at) = names.iter().position(|name| is(name)) {
                found[at].get_or_insert(symbol.st_value(endian));
            }
        }
    }
    Ok(found)
}

/// Symbol that every libisc exports.
const LOG_CONTEXT: &str = "isc_log_create";

/// Bytes of a `dns_name_t` that are examined.
const NAME_HEAD: usize = 24;

/// Returns the layout of names, from the constant name `*`. It has a length of 2 bytes.
fn layout_of(wildcard: &[u8]) -> u32 {
    match wildcard {
        // magic, padding, pointer, length, labels
        [
            0x6e,
            0x53,
            0x4e,
            0x44,
            0,
            0,
            0,
            0,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            2,
            0,
            0,
            0,
            ..,
        ] => NAMES_WIDE,
        // magic, length, labels
        [0x6e, 0x53, 0x4e, 0x44, 2, 1 | 2, ..] => NAMES_NARROW,
        _ => NAMES_UNKNOWN,
    }
}

/// Returns the offset in the file of a virtual address.
fn offset_of<'d, R: ReadRef<'d>>(file: &object::File<'d, R>, address: u64) -> Option<u64> {
    file.segments().find_map(|segment| {
        let (start, size) = segment.file_range();
        let at = address.checked_sub(segment.address())?;
        (at < size).then(|| start.checked_add(at)).flatten()
    })
}

/// Returns the bytes of the file at a virtual address.
fn bytes<'d, R: ReadRef<'d>>(
    file: &object::File<'d, R>,
    address: u64,
    length: usize,
) -> Option<&'d [u8]> {
    let length = length as u64;
    file.segments()
        .find_map(|segment| segment.data_range(address, length).ok().flatten())
}

/// Returns the virtual address to which the pointer at `address` points. It is taken from the
/// relocation, because the library is not loaded here.
fn pointer<'d, R: ReadRef<'d>>(file: &object::File<'d, R>, address: u64) -> Option<u64> {
    let (_, relocation) = file
        .dynamic_relocations()?
        .find(|(place, _)| *place == address)?;
    u64::try_from(relocation.addend()).ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    const DT_SEND: Wanted = Wanted {
        library: LIBDNS,
        functions: &["dns_dt_send"],
        may_lack: "",
    };

    #[test]
    fn a_library_is_known_by_its_name_up_to_the_version() {
        let log = Wanted {
            library: LIBISC,
            ..DT_SEND
        };
        for (file, is_in) in [
            ("libisc-9.18.49-Debian.so", true),
            ("libisc.so.1700", true),
            ("libisccfg-9.18.49.so", false),
            ("libdns.so", false),
        ] {
            assert_eq!(log.is_in(file), is_in, "{file}");
        }
    }

    #[test]
    fn the_layout_of_names_is_read_from_a_constant_name() {
        let [wide, narrow] = [
            b"nSND\0\0\0\0pppppppp\x02\0\0\0\x01\0\0\0",
            b"nSND\x02\x01\x02\0pppppppp\0\0\0\0\0\0\0\0",
        ];
        assert_eq!(
            [wide, narrow].map(|name| layout_of(name)),
            [NAMES_WIDE, NAMES_NARROW]
        );
        assert_eq!(layout_of(&[0; NAME_HEAD]), NAMES_UNKNOWN);
    }

    #[test]
    fn a_process_without_the_library_is_told_from_one_that_cannot_be_read() {
        let own = find(std::process::id(), DT_SEND);
        assert!(matches!(own, Err(Missing::Library("libdns"))), "{own:?}");
        let none = find(u32::MAX / 4, DT_SEND);
        assert!(matches!(none, Err(Missing::Other(_))), "{none:?}");
    }

    #[test]
    fn what_is_no_library_of_bind_is_left() {
        let executable = fs::read("/proc/self/exe").unwrap();
        assert_eq!(look_into(&executable[..], DT_SEND).unwrap(), None);
        assert!(look_into(&b"#!/bin/sh\n"[..], DT_SEND).is_err());
        assert!(look_into(&executable[..100], DT_SEND).is_err());
    }

    #[test]
    fn the_mark_of_a_deleted_file_is_no_part_of_its_name() {
        let name = |path: &str| file_name(Path::new(path));
        assert_eq!(name("/usr/lib/libdns-9.18.so (deleted)"), "libdns-9.18.so");
        assert_eq!(name("/usr/lib/libdns-9.18.so"), "libdns-9.18.so");
    }

    /// The file is deleted while a process has it mapped.
    #[test]
    fn a_file_is_read_through_its_mapping_when_it_was_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("libdns-sleep");
        let copied = Command::new("cp").arg("/bin/sleep").arg(&program).status();
        assert!(copied.unwrap().success());
        let mut child = Command::new(&program).arg("60").spawn().unwrap();
        let exec_done = || process_runs(child.id(), &program);
        while !exec_done() {
            std::thread::yield_now();
        }
        fs::remove_file(&program).unwrap();
        let files = candidates(child.id(), |file| DT_SEND.is_in(file)).unwrap();
        let name = files.first().map(|(_, name)| name.as_str());
        assert_eq!(name, Some("libdns-sleep"));
        if rustix::process::geteuid().is_root() {
            assert_eq!(look(&files[0].0, DT_SEND).unwrap(), None);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn process_runs(pid: u32, program: &Path) -> bool {
        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|link| link == program)
            && fs::read_to_string(format!("/proc/{pid}/maps"))
                .is_ok_and(|maps| maps.contains("libdns-sleep"))
    }
}
