use crate::exit::Failure;
pub(crate) fn status(_: &crate::args::StatusArgs) -> Result<(), Failure> {
    Ok(())
}
