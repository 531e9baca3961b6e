//! The screen's words and widths.

use super::*;

fn streaming() -> View {
    View {
        elapsed: Duration::from_secs(18),
        phase: Phase::Streaming,
        source_transactions: 2_013,
        applied_rows: 9_870,
        lag: Some(Lag { milliseconds: 41, behind: Behind::Bytes(12_345) }),
        versions: 3_412,
        versions_added: 57,
        marts: None,
        ..View::default()
    }
}

#[test]
fn marts_have_a_line() {
    let marts = Marts { count: 4, fresh: 3, milliseconds: 210, written: 5_120, different: None };
    let shown = text(&View { marts: Some(marts), ..streaming() }, 100);
    assert!(shown.ends_with("marts      4 at most 210 ms behind   5,120 rows written"), "{shown}");
    let all = text(&View { marts: Some(Marts { fresh: 4, ..marts }), ..streaming() }, 100);
    assert!(all.ends_with("marts      4 have all rows   5,120 rows written"), "{all}");
    let marts = Marts { different: Some(0), ..marts };
    let shown = render_plain(&View { marts: Some(marts), ..streaming() });
    assert!(shown.ends_with("rows written   all equal a full rebuild"), "{shown}");
}

#[test]
fn jobs_have_a_line() {
    let jobs = Jobs { count: 6, well: 2, failed: Vec::new(), runs: Some("marts".to_owned()) };
    let shown = text(&View { jobs: Some(jobs.clone()), ..streaming() }, 100);
    assert!(shown.ends_with("jobs       2 of 6 went well   marts runs"), "{shown}");
    let jobs = Jobs { well: 5, failed: vec!["marts".to_owned()], runs: None, ..jobs };
    let shown = render_plain(&View { jobs: Some(jobs), ..streaming() });
    assert!(shown.ends_with("jobs 5 of 6 went well   failed: marts"), "{shown}");
}

fn text(view: &View, width: usize) -> String {
    render(view, width).join("\n")
}

#[test]
fn streaming_in_the_words_of_the_documentation() {
    insta::assert_snapshot!(text(&streaming(), 100), @r#"
    shop → warehouse   00:18   streaming
    source     2,013 tx/s   applied 9,870 rows/s   lag 41 ms / 12 kB   versions 3,412 (+57/s)
    "#);
    insta::assert_snapshot!(render_plain(&streaming()), @r#"00:18   streaming   source 2,013 tx/s   applied 9,870 rows/s   lag 41 ms / 12 kB   versions 3,412 (+57/s)"#);
}

#[test]
fn topics_are_behind_by_records() {
    let lag = |records| Lag { milliseconds: 41, behind: Behind::Records(records) };
    let shown = render_plain(&View { lag: Some(lag(1_204)), ..streaming() });
    assert!(shown.contains("lag 41 ms / 1,204 records"), "{shown}");
    let shown = render_plain(&View { lag: Some(lag(1)), ..streaming() });
    assert!(shown.contains("lag 41 ms / 1 record "), "{shown}");
}

#[test]
fn a_narrow_terminal_gets_more_lines() {
    let view = View {
        phase: Phase::Verified(Verdict { tables: 4, rows: 204_118, ..Verdict::default() }),
        retries: 2,
        notes: vec!["public.audit_log is left out: it has no primary key\nand more".to_owned()],
        admin: Some("http://127.0.0.1:8088".to_owned()),
        psql: vec![
            "psql 'postgres://postgres@127.0.0.1:25432/warehouse' # some more than 60".to_owned(),
        ],
        ..streaming()
    };
    insta::assert_snapshot!(text(&view, 60), @r#"
    shop → warehouse   00:18   verified
    source     2,013 tx/s   applied 9,870 rows/s
               lag 41 ms / 12 kB   versions 3,412 (+57/s)
    VERIFY     4 tables, 204,118 rows: equal
               SCD2: 0 overlaps, 0 double currents      PASSED
    retries    2
    note       public.audit_log is left out: it has no primary …
    admin      http://127.0.0.1:8088
    psql       psql 'postgres://postgres@127.0.0.1:25432/warehouse' # some more than 60
    "#);
    assert_eq!(text(&view, 20), text(&view, LEAST_WIDTH));
}

#[test]
fn a_verdict_fits_a_wide_line() {
    let mut verdict = Verdict { tables: 4, rows: 204_118, ..Verdict::default() };
    insta::assert_snapshot!(verified(&verdict, 100).join("\n"), @r#"VERIFY     4 tables, 204,118 rows: equal   SCD2: 0 overlaps, 0 double currents      PASSED"#);
    verdict.different.push("cleansed.dim_users".to_owned());
    verdict.double_currents = 1;
    insta::assert_snapshot!(verified(&verdict, 120).join("\n"), @r#"VERIFY     4 tables, 204,118 rows: different in cleansed.dim_users   SCD2: 0 overlaps, 1 double current      FAILED"#);
    assert!(!Verdict::default().passed());
}

#[test]
fn a_snapshot_shows_a_bar_for_each_table() {
    let table = |name: &str, done, total, finished| TableProgress {
        name: name.to_owned(),
        done,
        total,
        finished,
    };
    let view = View {
        phase: Phase::Snapshot(vec![
            table("users", 30_000, 29_500, true),
            table("orders", 44_100, 90_000, false),
            table("payments", 73_000, 72_000, false),
            table("a_table_with_a_rather_long_name", 0, 0, false),
        ]),
        ..View::default()
    };
    insta::assert_snapshot!(text(&view, 60), @r#"
    shop → warehouse   00:00   snapshot
    users                █████████████ 100 %   30,000
    orders               ██████░░░░░░░  49 %   44,100 of 90,000
    payments             ████████████░  99 %   73,000 of 72,000
    a_table_with_a_rath… ░░░░░░░░░░░░░   0 %   0 of 0
    "#);
    insta::assert_snapshot!(text(&view, 100), @r#"
    shop → warehouse   00:00   snapshot
    users                           ████████████████████████████████████████ 100 %   30,000
    orders                          ███████████████████░░░░░░░░░░░░░░░░░░░░░  49 %   44,100 of 90,000
    payments                        ███████████████████████████████████████░  99 %   73,000 of 72,000
    a_table_with_a_rather_long_name ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░   0 %   0 of 0
    "#);
    insta::assert_snapshot!(render_plain(&view), @r#"00:00   snapshot   users 100 %   orders 49 %   payments 99 %   a_table_with_a_rather_long_name 0 %"#);
    for width in LEAST_WIDTH..130 {
        assert!(render(&view, width).iter().all(|line| length(line) <= width));
        assert!(render(&streaming(), width).iter().all(|line| length(line) <= width));
    }
}

#[test]
fn numbers_are_short() {
    assert_eq!(grouped(0), "0");
    assert_eq!(grouped(1_234_567), "1,234,567");
    assert_eq!((size(999), size(12_345)), ("999 B".to_owned(), "12 kB".to_owned()));
    assert_eq!(size(12_000_000_000), "12 GB");
    assert_eq!((time(9_999), time(61_000)), ("9,999 ms".to_owned(), "61 s".to_owned()));
    assert_eq!(clock(Duration::from_secs(3_725)), "1:02:05");
}
