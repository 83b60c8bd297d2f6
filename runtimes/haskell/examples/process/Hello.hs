{-# LANGUAGE OverloadedStrings #-}
-- | The input is in the file named by the first argument; the last line of the output is the result.
module Main (main) where

import Data.Aeson (decodeFileStrict, encode, object, withObject, (.!=), (.:?), (.=))
import Data.Aeson.Types (Parser, Value, parseMaybe)
import qualified Data.ByteString.Lazy.Char8 as Bytes
import Data.Maybe (fromMaybe)
import Data.Text (Text)
import System.Environment (getArgs)
import System.IO (hPutStrLn, stderr)

name :: Value -> Parser Text
name = withObject "event" $ \event -> event .:? "name" .!= "world"

main :: IO ()
main = do
  path : _ <- getArgs
  event <- decodeFileStrict path
  hPutStrLn stderr "saying hello"
  let greeted = fromMaybe "world" (event >>= parseMaybe name)
  Bytes.putStrLn (encode (object ["message" .= ("Hello, " <> greeted <> "!")]))
