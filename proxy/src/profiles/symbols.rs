//! Which function an address of the process is in: by the symbol tables of the program and of the libraries that it links.
//!
//! The image's program has its symbol table, and no line tables: so a name is the function that was compiled, with what
//! was inlined into it. A place that no symbol is known for has its file's name in brackets.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// More than a table of any program has; a file that says so is none.
const LARGEST_TABLE: u64 = 1 << 30;

/// A part of a file that is mapped to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Of `start` in the file.
    pub(super) offset: u64,
    pub(super) file: String,
}

/// A function's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// As its source has it.
    pub(super) source: String,
    /// As the linker has it.
    pub(super) symbol: String,
}

/// What runs in the process. The symbols of a file are read when an address in it is asked for.
#[derive(Debug, Default)]
pub(super) struct Code {
    mappings: Vec<Mapping>,
    symbols: HashMap<String, Symbols>,
}

impl Code {
    pub(super) fn of_process() -> io::Result<Code> {
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        Ok(Code {
            mappings: maps.lines().filter_map(executable).collect(),
            symbols: HashMap::new(),
        })
    }

    pub(super) fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// The number of the mapping that an address is in.
    pub(super) fn mapping(&self, address: u64) -> Option<usize> {
        let is_in = |mapping: &Mapping| (mapping.start..mapping.end).contains(&address);
        self.mappings.iter().position(is_in)
    }

    /// The function at an address.
    pub(super) fn name(&mut self, address: u64) -> Option<Name> {
        if let Some(symbol) = self.symbol(address) {
            let source = format!("{:#}", rustc_demangle::demangle(&symbol));
            return Some(Name { source, symbol });
        }
        let file = &self.mappings.get(self.mapping(address)?)?.file;
        let name = file.rsplit('/').next().unwrap_or(file);
        let source = format!("[{}]", name.trim_matches(['[', ']']));
        Some(Name {
            symbol: source.clone(),
            source,
        })
    }

    /// The symbol at an address, as the linker knows it.
    pub(super) fn symbol(&mut self, address: u64) -> Option<String> {
        let mapping = self.mappings.get(self.mapping(address)?)?;
        let in_file = address - mapping.start + mapping.offset;
        if !self.symbols.contains_key(&mapping.file) {
            // What has no file, or none that can be read, has no names.
            let symbols = Symbols::read(&mapping.file).unwrap_or_default();
            self.symbols.insert(mapping.file.clone(), symbols);
        }
        let symbols = self.symbols.get(&mapping.file)?;
        symbols.at(symbols.address(in_file)?).map(str::to_owned)
    }
}

/// A line of `/proc/self/maps` that is to be run.
fn executable(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    if !fields.next()?.contains('x') {
        return None;
    }
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let path: Vec<&str> = fields.skip(2).collect();
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        offset,
        file: path.join(" "),
    })
}

/// A part of a file that is loaded, and where the linker wanted it.
#[derive(Debug)]
struct Segment {
    offset: u64,
    size: u64,
    address: u64,
}

#[derive(Debug)]
struct Symbol {
    start: u64,
    size: u64,
    /// In the names.
    name: usize,
}

/// The functions of a file.
#[derive(Debug, Default)]
struct Symbols {
    segments: Vec<Segment>,
    /// By their beginnings.
    functions: Vec<Symbol>,
    names: Vec<u8>,
}

/// Of sections: a symbol table, and what a library shows to others.
const SYMTAB: u32 = 2;
const DYNSYM: u32 = 11;
/// Of segments: it is loaded.
const LOAD: u32 = 1;
/// Of symbols: a function.
const FUNCTION: u8 = 2;

impl Symbols {
    /// From an ELF file of 64 bits, lowest byte first, as all that this program is built for.
    fn read(path: &str) -> Option<Symbols> {
        // It may have been replaced since.
        let own = std::fs::read_link("/proc/self/exe").ok();
        let is_own = own.is_some_and(|own| own.as_os_str() == path);
        let file = File::open(if is_own { "/proc/self/exe" } else { path }).ok()?;
        let head = part(&file, 0, 64)?;
        if head.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let table = |offset: usize, size: usize, count: usize| {
            let (size, count) = (u64::from(u16_at(&head, size)?), u16_at(&head, count)?);
            let all = part(&file, u64_at(&head, offset)?, size * u64::from(count))?;
            let size = usize::try_from(size).ok().filter(|size| *size > 0)?;
            Some(
                all.chunks_exact(size)
                    .map(<[u8]>::to_vec)
                    .collect::<Vec<_>>(),
            )
        };
        let segments = table(32, 54, 56)?;
        let sections = table(40, 58, 60)?;
        let of_kind = |kind| sections.iter().find(|s| u32_at(s, 4) == Some(kind));
        let symbols = of_kind(SYMTAB).or_else(|| of_kind(DYNSYM))?;
        let names = sections.get(usize::try_from(u32_at(symbols, 40)?).ok()?)?;
        let content = |section: &[u8]| part(&file, u64_at(section, 24)?, u64_at(section, 32)?);
        let (symbols, names) = (content(symbols)?, content(names)?);
        let mut functions: Vec<Symbol> = symbols.chunks_exact(24).filter_map(function).collect();
        // Of several names the last is taken: one that isn't internal.
        functions.sort_by_key(|f| (f.start, names.get(f.name) != Some(&b'_')));
        Some(Symbols {
            segments: segments.iter().filter_map(|one| segment(one)).collect(),
            functions,
            names,
        })
    }

    /// Where the linker wanted what is at this place of the file.
    fn address(&self, in_file: u64) -> Option<u64> {
        let segments = self.segments.iter();
        let mut places = segments.filter_map(|segment| {
            let within = in_file.checked_sub(segment.offset)?;
            (within < segment.size).then(|| segment.address.wrapping_add(within))
        });
        places.next()
    }

    fn at(&self, address: u64) -> Option<&str> {
        let after = self.functions.partition_point(|s| s.start <= address);
        let symbol = self.functions.get(after.checked_sub(1)?)?;
        // Assembly may not say how long it is.
        if symbol.size > 0 && address - symbol.start >= symbol.size {
            return None;
        }
        let name = self
            .names
            .get(symbol.name..)?
            .split(|byte| *byte == 0)
            .next()?;
        std::str::from_utf8(name)
            .ok()
            .filter(|name| !name.is_empty())
    }
}

fn segment(header: &[u8]) -> Option<Segment> {
    (u32_at(header, 0)? == LOAD).then_some(())?;
    Some(Segment {
        offset: u64_at(header, 8)?,
        address: u64_at(header, 16)?,
        size: u64_at(header, 32)?,
    })
}

fn function(entry: &[u8]) -> Option<Symbol> {
    let start = u64_at(entry, 8)?;
    // What is defined elsewhere begins at 0.
    (entry.get(4)? & 0xf == FUNCTION && start > 0).then_some(())?;
    Some(Symbol {
        start,
        size: u64_at(entry, 16)?,
        name: usize::try_from(u32_at(entry, 0)?).ok()?,
    })
}

fn part(file: &File, offset: u64, size: u64) -> Option<Vec<u8>> {
    let size = usize::try_from(size)
        .ok()
        .filter(|_| size <= LARGEST_TABLE)?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_le_bytes(*field))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*field))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*field))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_the_program_and_of_its_libraries_have_names() {
        let mut code = Code::of_process().unwrap();
        let here = executable as fn(&str) -> Option<Mapping>;
        let address = here as usize as u64 + 1;
        let name = code.name(address).unwrap();
        assert_eq!(name.source, "waypoint_proxy::profiles::symbols::executable");
        assert!(name.symbol.starts_with("_"), "{name:?}");
        let mapping = code.mapping(address).unwrap();
        let own = std::env::current_exe().unwrap();
        assert_eq!(code.mappings()[mapping].file, own.to_str().unwrap());
        // Nothing is at 0.
        assert_eq!((code.name(0), code.mapping(0)), (None, None));
        let vdso = code.mappings().iter().find(|one| one.file == "[vdso]");
        let vdso = vdso.unwrap().start;
        assert_eq!(code.name(vdso).unwrap().source, "[vdso]");
        let libc = code
            .mappings()
            .iter()
            .find(|one| one.file.contains("libc.so"));
        let libc = libc.unwrap().file.clone();
        let symbols = Symbols::read(&libc).unwrap();
        let read = symbols
            .functions
            .iter()
            .find(|f| symbols.at(f.start) == Some("read"));
        assert!(read.is_some_and(|f| f.size > 0));
    }

    #[test]
    fn what_is_no_program_has_no_names() {
        let folder = std::env::temp_dir().join(format!("symbols-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let own = std::fs::read("/proc/self/exe").unwrap();
        let mut head = own[..64].to_vec();
        let file = folder.join("cut");
        for length in [0, 5, 63, 64] {
            std::fs::write(&file, &head[..length]).unwrap();
            assert!(Symbols::read(file.to_str().unwrap()).is_none(), "{length}");
        }
        // Tables that are far away, and larger than anything.
        head[32..48].fill(0xff);
        std::fs::write(&file, &head).unwrap();
        assert!(Symbols::read(file.to_str().unwrap()).is_none());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn mappings_that_run() {
        let line = "7f00-7fff r-xp 00001000 fe:01 12    /usr/lib/a b.so";
        let mapping = Mapping {
            start: 0x7f00,
            end: 0x7fff,
            offset: 0x1000,
            file: "/usr/lib/a b.so".to_owned(),
        };
        assert_eq!(executable(line), Some(mapping));
        assert_eq!(executable("7f00-7fff rw-p 00001000 fe:01 12 /a"), None);
        assert_eq!(executable("no line"), None);
    }
}
