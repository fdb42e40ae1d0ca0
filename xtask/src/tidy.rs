//! placeholder
use crate::Result;
pub(crate) fn command(_root: &std::path::Path) -> Result<()> {
    Ok(())
}
