use super::Report;
pub(crate) fn html(_: &Report) -> String {
    String::new()
}
pub(crate) fn svg(_: &Report) -> String {
    String::new()
}
