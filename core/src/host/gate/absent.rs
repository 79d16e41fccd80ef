//! A machine whose calls nobody has described yet.

pub(super) const EXISTS: bool = false;
pub(super) const STUB: usize = 1;

pub(super) fn stubs(_page: usize) -> Option<(usize, Vec<u8>)> {
    None
}
