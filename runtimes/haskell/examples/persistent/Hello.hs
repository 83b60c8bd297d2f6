{-# LANGUAGE OverloadedStrings #-}
-- | Stays up: one line of JSON in per call, one line of JSON out.
module Main (main) where

import Control.Monad (forM_)
import Data.Aeson (Value, decode, encode, object, withObject, (.:), (.=))
import Data.Aeson.Types (Parser, parseMaybe)
import qualified Data.ByteString.Lazy.Char8 as Bytes
import Data.Text (Text)
import System.IO (hFlush, stdout)

name :: Value -> Parser Text
name = withObject "request" $ \request -> do
  event <- request .: "input"
  withObject "input" (.: "name") event

answer :: Int -> Maybe Text -> Value
answer calls (Just greeted) =
  object ["output" .= object ["message" .= ("Hello, " <> greeted <> "!"), "calls" .= calls]]
answer _ Nothing = object ["error" .= ("give the input a name" :: Text)]

main :: IO ()
main = do
  requests <- Bytes.getContents
  forM_ (zip [1 ..] (Bytes.lines requests)) $ \(calls, line) -> do
    Bytes.putStrLn (encode (answer calls (decode line >>= parseMaybe name)))
    hFlush stdout
