//! How much memory the process may use: what it was told, and what the kernel would kill it for.
//!
//! The least of what is known counts: a setting above the container's limit would not keep the kernel from anything. The
//! template's `GOMEMLIMIT` is the container's limit, or the node's memory where it has none.

use std::path::{Path, PathBuf};

/// What the kernel says where there is no limit is far above this (cgroup v1: the largest number of pages).
const NONE: u64 = 1 << 60;

/// Bytes as Go has them in `GOMEMLIMIT` (`512MiB`), as Kubernetes has them (`512Mi`, `1G`), or a plain number.
///
/// # Errors
/// It is none of these.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let factor: u64 = match unit {
        "" | "B" => 1,
        "k" => 1000,
        "M" => 1000 * 1000,
        "G" => 1000 * 1000 * 1000,
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        "Ti" | "TiB" => 1 << 40,
        _ => return Err(format!("{unit:?} is no unit of bytes (Ki, Mi, Gi)")),
    };
    let number: u64 = number.parse().map_err(|_| "not a number of bytes")?;
    let bytes = number.checked_mul(factor).ok_or("too many bytes")?;
    if bytes == 0 {
        return Err("nothing would fit".to_owned());
    }
    Ok(bytes)
}

/// Where the kernel keeps account of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cgroup {
    /// The folder of the process's group, and the mount that it is in.
    V2 {
        folder: PathBuf,
        mount: PathBuf,
    },
    V1 {
        folder: PathBuf,
    },
}

impl Cgroup {
    /// The process's own.
    pub(crate) fn own() -> Option<Cgroup> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        Cgroup::find(&groups, Path::new("/sys/fs/cgroup"))
    }

    /// From `/proc/self/cgroup`. In a container that names the group as the host sees it, or as the container does:
    /// what is mounted may be the group itself.
    fn find(groups: &str, mount: &Path) -> Option<Cgroup> {
        let folder = |mount: &Path, path: &str, file: &str| {
            [mount.join(path.trim_start_matches('/')), mount.to_owned()]
                .into_iter()
                .find(|folder| folder.join(file).exists())
        };
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            if controllers.split(',').any(|name| name == "memory") {
                let mount = mount.join("memory");
                let folder = folder(&mount, path, "memory.limit_in_bytes")?;
                return Some(Cgroup::V1 { folder });
            }
            if controllers.is_empty()
                && let Some(folder) = folder(mount, path, "memory.max")
            {
                let mount = mount.to_owned();
                return Some(Cgroup::V2 { folder, mount });
            }
        }
        None
    }

    /// The least limit of the group and, as far as they can be seen, of those that it is in.
    pub(crate) fn limit(&self) -> Option<u64> {
        match self {
            Cgroup::V1 { folder } => number(&folder.join("memory.limit_in_bytes")),
            Cgroup::V2 { folder, mount } => folder
                .ancestors()
                .take_while(|folder| folder.starts_with(mount))
                .filter_map(|folder| number(&folder.join("memory.max")))
                .min(),
        }
        .filter(|limit| *limit < NONE)
    }

    /// What counts against the limit and can't be taken back at once, and what of it are sockets' buffers, if it says.
    pub(crate) fn usage(&self) -> Option<(u64, u64)> {
        let (folder, usage, inactive) = match self {
            Cgroup::V1 { folder } => (folder, "memory.usage_in_bytes", "total_inactive_file"),
            Cgroup::V2 { folder, .. } => (folder, "memory.current", "inactive_file"),
        };
        let usage = number(&folder.join(usage))?;
        let stat = std::fs::read_to_string(folder.join("memory.stat")).ok()?;
        let field = |name: &str| {
            stat.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
                .unwrap_or(0)
        };
        Some((usage.saturating_sub(field(inactive)), field("sock")))
    }
}

/// `max` is no number, and no limit.
fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn bytes_are_read_as_go_and_kubernetes_write_them() {
        for (text, bytes) in [
            ("1073741824", 1 << 30),
            ("512MiB", 512 << 20),
            ("1Gi", 1 << 30),
            ("64KiB", 64 << 10),
            ("2G", 2_000_000_000),
            ("7B", 7),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "off", "-1", "0", "1.5Gi", "1 Gi", "99999999Ti", "10Mb"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    /// A folder that stands for `/sys/fs/cgroup`.
    fn tree(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root =
            std::env::temp_dir().join(format!("waypoint-cgroup-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_least_limit_above_counts() {
        let root = tree(
            "v2",
            &[
                ("pods/a/memory.max", "max\n"),
                ("pods/a/memory.current", "5000\n"),
                (
                    "pods/a/memory.stat",
                    "anon 1\ninactive_file 1000\nsock 700\n",
                ),
                ("pods/memory.max", "1048576\n"),
            ],
        );
        let group = Cgroup::find("0::/pods/a\n", &root).unwrap();
        assert_eq!(group.limit(), Some(1 << 20));
        assert_eq!(group.usage(), Some((4000, 700)));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_containers_own_group_is_what_is_mounted() {
        let root = tree("own", &[("memory.max", "4096\n")]);
        let group = Cgroup::find("0::/\n", &root).unwrap();
        assert_eq!(group.limit(), Some(4096));
        assert_eq!(group.usage(), None, "it doesn't say");
        let root_1 = tree("v1", &[("memory/memory.limit_in_bytes", "8192\n")]);
        let groups = "9:name=systemd:/x\n4:memory:/kubepods/pod1\n0::/\n";
        assert_eq!(Cgroup::find(groups, &root_1).unwrap().limit(), Some(8192));
        let none = [("memory/memory.limit_in_bytes", "9223372036854771712\n")];
        let root_none = tree("none", &none);
        assert_eq!(Cgroup::find(groups, &root_none).unwrap().limit(), None);
        assert_eq!(Cgroup::find("0::/\n", &root_none), None);
        for root in [root, root_1, root_none] {
            fs::remove_dir_all(root).unwrap();
        }
    }
}
