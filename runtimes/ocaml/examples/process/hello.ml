(* The input is in the file named by the first argument; the last line of the output is the result. *)
let () =
  let event = Yojson.Basic.from_file Sys.argv.(1) in
  let name =
    match Yojson.Basic.Util.member "name" event with `String name -> name | _ -> "world"
  in
  prerr_endline "saying hello";
  print_endline (Yojson.Basic.to_string (`Assoc [ ("message", `String ("Hello, " ^ name ^ "!")) ]))
