//! Making the file by which a space is what it is.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::files::FilesHeader;
use super::format::{HEADER_LEN, Header};
use super::made::{Made, is_for_good};
use super::open::{Options, no_room, unusable};
use crate::digest::fnv1a;
use crate::os::clock::wall_clock_nanos;
use crate::os::file;
use crate::os::map::Mapping;
use crate::{Error, Result};

pub(super) const UNPUBLISHED: &str = ".segment.new";

impl Options {
    /// Creates the file by which the space is what it is, in its directory, of which the caller holds the exclusive lock: wherever that is by now.
    pub(crate) fn create(&self, directory: &File, space: &Path, made: Made) -> Result<()> {
        let remove_new = || unlinkat(directory, UNPUBLISHED, UnlinkatFlags::NoRemoveDir);
        match remove_new() {
            Err(e) if e != Errno::ENOENT => {
                return Err(Error::system("remove what a killed process left at", &space.join(UNPUBLISHED), e));
            }
            _ => {}
        }
        let choice = self.choice();
        let file = file::create_new_in(directory, UNPUBLISHED).map_err(|e| match e.kind() {
            ErrorKind::StorageFull => no_room(space, space, made.size(choice)),
            _ => unusable(
                space,
                format!("no file can be created in it ({e}); name another root: Space::builder(..).root(..)"),
            ),
        })?;
        let written = place_in(&file, directory).and_then(|place| {
            let token_base = wall_clock_nanos().max(self.token_floor);
            file::allocate(file.as_fd(), 0, made.size(choice))?;
            if self.for_a_group() {
                std::os::unix::fs::fchown(&file, None, Some(directory.metadata()?.gid()))?;
            }
            file.set_permissions(fs::Permissions::from_mode(choice.mode))?;
            match made {
                Made::Segment => {
                    let header = Header::new(choice, token_base, place);
                    file.set_len(header.size)?;
                    file.write_all_at(bytemuck::bytes_of(&header), 0)?;
                }
                Made::Files => {
                    // What another machine maps is another memory.
                    let mapped = file::network_file_system(&file)?.is_none()
                        && match Mapping::new(&file, HEADER_LEN) {
                            Ok(_) => true,
                            Err(e) if is_for_good(&e) => false,
                            Err(e) => return Err(e),
                        };
                    FilesHeader::new(choice.names, choice.mode, token_base, place, mapped).write(&file)?;
                }
            }
            // On a disk: a crash of the machine leaves either no segment or a whole one.
            file.sync_all()?;
            Ok(renameat2(directory, UNPUBLISHED, directory, made.file_name(), RenameFlags::RENAME_NOREPLACE)?)
        });
        written.map_err(|e| {
            let _ = remove_new();
            match e.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                    no_room(space, space, made.size(choice))
                }
                _ => Error::system("create", &space.join(made.file_name()), e),
            }
        })
    }
}

/// A digest of which file this is, in which directory, on what kind of file system: an overlay's copy of a file has the number of the one below.
pub(super) fn place(file: &File, space: &Path) -> io::Result<u64> {
    place_of(file, fs::metadata(space)?.ino())
}

fn place_in(file: &File, directory: &File) -> io::Result<u64> {
    place_of(file, directory.metadata()?.ino())
}

fn place_of(file: &File, directory: u64) -> io::Result<u64> {
    let marks = [file.metadata()?.ino(), directory, file::type_of(file)?];
    Ok(fnv1a(bytemuck::bytes_of(&marks)))
}
