//! Apache's modules, as far as a verdict hangs on them: by the files that the process has mapped.

/// By which it asks upstreams in HTTP/2.
const HTTP2: &str = "LoadModule proxy_http2_module";

/// `maps` as the kernel lists them; `None` where that may not be read, which rules no module out.
pub(super) fn settings(maps: Option<&str>) -> Vec<(String, String)> {
    const FILE: &str = "mod_proxy_http2.so";
    let value = match maps {
        Some(maps) if maps.contains(FILE) => FILE,
        Some(_) => return Vec::new(),
        None => "not known",
    };
    vec![(HTTP2.to_owned(), value.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_is_mapped_or_may_be() {
        let line =
            |file: &str| format!("7f0-7f1 r-xp 00000000 08:01 7 /usr/lib/apache2/modules/{file}\n");
        assert_eq!(settings(Some(&line("mod_proxy_http.so"))), []);
        let both = line("mod_proxy_http.so") + &line("mod_proxy_http2.so");
        let own = |value: &str| [(HTTP2.to_owned(), value.to_owned())];
        assert_eq!(settings(Some(&both)), own("mod_proxy_http2.so"));
        assert_eq!(settings(None), own("not known"));
    }
}
