//! The demonstration.

/// todo
pub async fn run() -> Result<(), std::io::Error> {
    Ok(())
}
