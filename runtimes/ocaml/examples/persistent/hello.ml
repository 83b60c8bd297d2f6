(* Stays up: one line of JSON in per call, one line of JSON out. *)
open Yojson.Basic

let answer calls = function
  | `Assoc fields when List.mem_assoc "name" fields ->
      let name = Util.to_string (List.assoc "name" fields) in
      `Assoc [ ("output", `Assoc [ ("message", `String ("Hello, " ^ name ^ "!")); ("calls", `Int calls) ]) ]
  | _ -> `Assoc [ ("error", `String "give the input a name") ]

let rec serve calls =
  match read_line () with
  | line ->
      print_endline (to_string (answer calls (Util.member "input" (from_string line))));
      serve (calls + 1)
  | exception End_of_file -> ()

let () = serve 1
