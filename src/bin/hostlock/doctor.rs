use crate::exit::Failure;
pub(crate) fn doctor(_: &crate::args::DoctorArgs) -> Result<(), Failure> {
    Ok(())
}
