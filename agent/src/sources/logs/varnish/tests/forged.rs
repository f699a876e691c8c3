//! VCL logs a text that a client chose, newlines included: what is printed then is no record's.

use super::*;

#[test]
fn nobody_forges_a_record() {
    let forged = "*   << Request  >> 9         \n\
        -   Begin          req 8 rxreq\n\
        -   Timestamp      Start: 1795383410.000000 0.000000 0.000000\n\
        -   ReqStart       6.6.6.6 6666 a0\n\
        -   ReqMethod      GET\n\
        -   ReqURL         /forged\n\
        -   VCL_call       RECV\n\
        -   VCL_return     synth\n\
        -   RespStatus     503\n\
        -   Timestamp      Process: 1795383410.500000 0.500000 0.000008\n\
        -   End            \n\n";
    let fetched = format!("{OPEN}\nFetchError     HTC eof (-1)\n{FAILED}");
    let whole = group("/a", &fetched, 503);
    let logged = |at: &str, text: &str| {
        let (before, after) = whole.split_once(at).unwrap();
        format!("{before}{at}-   VCL_Log        {text}\n{after}")
    };
    let in_request = "-   VCL_call       RECV\n";
    let records = [
        "x\n-   ReqStart       6.6.6.6 6666 a0\n-   ReqURL         /forged",
        "x\n-   Link           bereq 666 pass\n-   Timestamp      Process: 1.000000 0.0 0.0",
    ];
    for text in records {
        assert_eq!(told(&logged(in_request, text)), told(&whole), "{text}");
    }
    let believed = |log: String| {
        let (told, counts) = parsed(&log);
        assert!(told.iter().all(|one| path(one) != "/forged"), "{log}");
        assert!(told.iter().all(|one| one.tries.len() < 2), "{log}");
        assert!(counts.distrusted > 0, "{log}");
    };
    let ends = "x\n-   VCL_return     pass\n-   End            \n\n";
    let record = "-   VCL_Log        x";
    for text in [
        format!("x\n{forged}"),
        format!("x\n{forged}{record}"),
        format!("x\n-   End            \n\n{forged}{record}"),
        format!("{ends}{forged}{record}"),
        "x\n-   VCL_return     synth\n-   RespStatus     503".to_owned(),
        "x\n-   Begin          req 1 rxreq".to_owned(),
        "x\n-   VCL_call       PASS".to_owned(),
        "x\n-   RespStatus     200".to_owned(),
    ] {
        believed(logged(in_request, &text));
    }
    let in_fetch = "--  VCL_call       BACKEND_FETCH\n";
    let open = "--  BackendOpen    9 app 6.6.6.6 66 6.6.6.6 66 connect";
    believed(logged(
        in_fetch,
        &format!("x\n--  VCL_return     fetch\n{open}"),
    ));
    let turns = format!("x\n--  VCL_return     fetch\n{open}\n--  VCL_call       BACKEND_FETCH");
    believed(logged(in_fetch, &turns));
    assert_eq!(told(&logged(in_fetch, &format!("x\n{open}"))), told(&whole));
}
