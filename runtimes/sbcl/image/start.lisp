;;; Started as a script with the handler's path and its arguments, which are then as if the handler were the script.
(load "/usr/lib/nova/libraries.fasl")
(let ((handler (second sb-ext:*posix-argv*)))
  (setf (rest sb-ext:*posix-argv*) (cddr sb-ext:*posix-argv*))
  (load handler))
