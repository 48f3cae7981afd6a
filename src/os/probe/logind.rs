//! Whether systemd-logind removes what a user has in `/dev/shm` when the user's last session ends (`RemoveIPC=`).

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// What becomes of this user's files in `/dev/shm` when the user logs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtLogout {
    /// No systemd runs here.
    NoSystemd,
    /// They stay: it leaves those of root and of system users alone.
    SystemUser,
    /// They stay, because its configuration says so.
    Kept,
    /// They are removed, because its configuration says so.
    Removed,
    /// Its configuration says nothing, and what it was built with cannot be seen; most remove them.
    Unsaid,
}

/// The largest id of a system user, unless a distribution changed it.
const SYSTEM_USERS: u32 = 999;

pub(crate) fn at_logout() -> AtLogout {
    if !Path::new("/run/systemd/system").is_dir() {
        return AtLogout::NoSystemd;
    }
    if geteuid().as_raw() <= SYSTEM_USERS {
        return AtLogout::SystemUser;
    }
    configured(Path::new("/"))
}

/// What the configuration under `root` says: the first main file that is there, then the fragments of all directories by name, of
/// which one in an earlier directory replaces those of the same name. The last word counts.
fn configured(root: &Path) -> AtLogout {
    const DIRECTORIES: [&str; 4] = ["etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd"];
    let main = DIRECTORIES.iter().map(|directory| root.join(directory).join("logind.conf")).find(|path| path.exists());
    let mut fragments: Vec<PathBuf> = Vec::new();
    for directory in DIRECTORIES {
        let entries = fs::read_dir(root.join(directory).join("logind.conf.d"));
        for path in entries.into_iter().flatten().flatten().map(|entry| entry.path()) {
            let replaced = fragments.iter().any(|known| known.file_name() == path.file_name());
            if path.extension().is_some_and(|extension| extension == "conf") && !replaced {
                fragments.push(path);
            }
        }
    }
    fragments.sort_by(|one, other| one.file_name().cmp(&other.file_name()));
    let texts = main.into_iter().chain(fragments).filter_map(|path| fs::read_to_string(path).ok());
    texts.filter_map(|text| said_in(&text)).next_back().unwrap_or(AtLogout::Unsaid)
}

fn said_in(text: &str) -> Option<AtLogout> {
    let mut values =
        text.lines().filter_map(|line| line.trim().strip_prefix("RemoveIPC")?.trim_start().strip_prefix('='));
    values.next_back().map(|value| match value.trim().to_lowercase().as_str() {
        "no" | "false" | "off" | "n" | "f" | "0" => AtLogout::Kept,
        "" => AtLogout::Unsaid,
        _ => AtLogout::Removed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_the_configuration_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(configured(root.path()), AtLogout::Unsaid);
        write("usr/lib/systemd/logind.conf", "[Login]\nRemoveIPC=no\n");
        assert_eq!(configured(root.path()), AtLogout::Kept);
        write("etc/systemd/logind.conf", "[Login]\n#RemoveIPC=no\n");
        assert_eq!(configured(root.path()), AtLogout::Unsaid, "it replaces the other, and a comment says nothing");
        write("usr/lib/systemd/logind.conf.d/20-ours.conf", "[Login]\nRemoveIPC = yes\n");
        assert_eq!(configured(root.path()), AtLogout::Removed);
        write("run/systemd/logind.conf.d/10-early.conf", "RemoveIPC=no");
        assert_eq!(configured(root.path()), AtLogout::Removed, "by name, wherever they lie");
        write("etc/systemd/logind.conf.d/20-ours.conf", "[Login]\nRemoveIPC=Off\n");
        assert_eq!(configured(root.path()), AtLogout::Kept, "one of the same name, in a directory that goes before");
        write("etc/systemd/logind.conf.d/30-no.txt", "RemoveIPC=yes");
        assert_eq!(configured(root.path()), AtLogout::Kept);
    }
}
