//! The balloon as typed on the command line: `on`, or options: `size=SIZE`, `stats=SECONDS`, `deflate-on-oom`,
//! `free-page-reporting`.

use crate::parse_size;
use crate::v1::BalloonDevice;

/// Reads a balloon.
pub(super) fn read(text: &str) -> Result<BalloonDevice, String> {
    let mut balloon = BalloonDevice::default();
    if text == "on" {
        return Ok(balloon);
    }
    for word in text.split(',') {
        match word.split_once('=') {
            None if word == "deflate-on-oom" => balloon.deflate_on_oom = true,
            None if word == "free-page-reporting" => balloon.free_page_reporting = true,
            Some(("size", size)) => balloon.size_bytes = Some(parse_size(size)?),
            Some(("stats", seconds)) => {
                let number = seconds.parse();
                balloon.stats_interval_seconds =
                    number.map_err(|_| format!("'{seconds}' is no number of seconds"))?;
            }
            _ => {
                return Err(format!(
                    "'{word}' is neither on, alone, nor one of size=SIZE, stats=SECONDS, deflate-on-oom and free-page-reporting"
                ));
            }
        }
    }
    Ok(balloon)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balloon_is_on_or_its_options() {
        assert_eq!(read("on"), Ok(BalloonDevice::default()));
        let all = BalloonDevice {
            size_bytes: Some(512 << 20),
            stats_interval_seconds: 5,
            deflate_on_oom: true,
            free_page_reporting: true,
        };
        let text = "size=512M,stats=5,deflate-on-oom,free-page-reporting";
        assert_eq!(read(text), Ok(all));
        for (text, problem) in [
            ("", "'' is neither on, alone,"),
            ("off", "'off' is neither on, alone,"),
            ("on,stats=1", "'on' is neither on, alone,"),
            ("stats=-1", "'-1' is no number"),
            ("size=x", "expected bytes"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(problem), "{text}: {error}");
        }
    }
}
