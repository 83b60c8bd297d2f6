;;; Compiles the libraries into one file that is loaded before each handler. A core with them inside would start a
;;; little faster, but no two of those are alike.
(defvar *tree* (car (last sb-ext:*posix-argv*)))
(defvar *compiled* '())

(defun compile-and-load (library &rest names)
  (dolist (name names)
    (let ((source (format nil "/usr/share/common-lisp/source/~a/~a.lisp" library name))
          (compiled (format nil "~a/tmp/~d.fasl" *tree* (length *compiled*))))
      (with-compilation-unit (:source-namestring source)
        (compile-file (concatenate 'string *tree* source) :output-file compiled))
      (load compiled)
      (push compiled *compiled*))))

(let ((*error-output* (make-broadcast-stream))
      (*standard-output* (make-broadcast-stream)))
  (compile-and-load "alexandria/alexandria-1" "package" "definitions" "binding" "strings" "conditions"
                    "symbols" "macros" "functions" "lists" "types" "io" "hash-tables" "control-flow" "arrays"
                    "sequences" "numbers" "features")
  (compile-and-load "alexandria/alexandria-2" "package" "arrays" "control-flow" "sequences" "lists")
  (compile-and-load "cl-trivial-gray-streams" "package" "streams")
  (compile-and-load "yason" "package" "encode" "parse"))

;;; A compiled file begins with a line that says where its source lay, up to the first byte 255. That place is
;;; another one each time.
(with-open-file (all (format nil "~a/usr/lib/nova/libraries.fasl" *tree*)
                     :direction :output :element-type '(unsigned-byte 8))
  (dolist (compiled (reverse *compiled*))
    (with-open-file (file compiled :element-type '(unsigned-byte 8))
      (let ((bytes (make-array (file-length file) :element-type '(unsigned-byte 8))))
        (read-sequence bytes file)
        (write-sequence (map 'vector #'char-code (format nil "# FASL~%")) all)
        (write-sequence bytes all :start (position 255 bytes))))
    (delete-file compiled)))
