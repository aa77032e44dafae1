//! What the kernel says of the process's memory.

/// Bytes that are resident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resident {
    pub(crate) all: u64,
    /// Of no file: the heap, stacks.
    pub(crate) anonymous: u64,
}

impl Resident {
    /// Nothing, where the kernel says nothing.
    pub(crate) fn now() -> Resident {
        Resident::parse(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    fn parse(status: &str) -> Resident {
        Resident {
            all: kib(status, "VmRSS:") * 1024,
            anonymous: kib(status, "RssAnon:") * 1024,
        }
    }
}

fn kib(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_numbers() {
        let status = "Name:\twaypoint\nVmRSS:\t   12345 kB\nRssAnon:\t 99 kB\n";
        let resident = Resident {
            all: 12345 * 1024,
            anonymous: 99 * 1024,
        };
        assert_eq!(Resident::parse(status), resident);
        assert_eq!(kib(status, "RssFile:"), 0);
    }
}
